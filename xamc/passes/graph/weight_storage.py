"""Stores weight matrices, and on request every weight, in 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from xamc.errors import InternalError
from xamc.ir.names import WEIGHT_ROLE
from xamc.ir.onnx_graph import new_node
from xamc.ir.program import Program
from xamc.ir.weights.lazy import LazyTensor, numpy_dtype
from xamc.ir.weights.transforms import Cast
from xamc.passes.protocol import Arrays, PassReport, SameSignature, Tensors
from xamc.passes.stored_matrices import float_matrices

_TYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
# half a unit in the last place, relative: 2^-11 and 2^-8
_HALF_ULP = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
# half of the smallest subnormal, absolute: what tiny weights may lose
_HALF_SUBNORMAL = {"float16": 2.0**-25, "bfloat16": 2.0**-134}


@dataclass(frozen=True)
class WeightStorage(SameSignature):
    """Stores weights of rank 2 as `dtype` and casts them to float32 where they are read; all arithmetic stays fp32.

        before: MatMul(x, Transpose(weight float32 [N, K]))
        after:  MatMul(x, Transpose(Cast<float32>(weight float16 [N, K])))

    Norm weights and biases stay float32: together they are a thousandth of a model, and rounding them costs accuracy.
    With `vectors` they are stored as `dtype` too, for targets whose graphs hold nothing else.
    """

    dtype: Literal["float16", "bfloat16"]
    vectors: bool = False
    name: str = "weight_storage"
    tolerance: str = "stored_weights"

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        graph = program.model.graph
        for value in float_matrices(program, report, self.vectors):
            assert value.name is not None
            readers = list(value.uses())
            value.type = ir.TensorType(_TYPES[self.dtype])
            value.metadata_props[WEIGHT_ROLE] = self.dtype
            first = next(node for node in graph if any(node is reader for reader, _ in readers))
            cast = new_node("Cast", [value], [f"{value.name}.float32"], like=first, to=int(ir.DataType.FLOAT))
            cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), value.shape
            for reader, index in readers:
                reader.replace_input_with(index, cast.outputs[0])
            graph.insert_before(first, cast)
            if value.name in program.weights:
                program.weights[value.name] = _stored(program.weights[value.name], self.dtype, value.name)
            report.count("weight")
        return report

    def decoded_weights(self, before: Tensors, after: Tensors) -> Arrays:
        """The 16-bit weights as float32, after a check that each is within half a unit of its original."""
        decoded: Arrays = {}
        for name, array in before.items():
            stored = after[name]
            if stored.dtype != numpy_dtype(self.dtype) or array.dtype == stored.dtype:
                decoded[name] = np.asarray(stored)
                continue
            original, value = np.asarray(array, np.float32), stored.astype(np.float32)
            decoded[name] = value
            bound = np.abs(original) * _HALF_ULP[self.dtype] * 1.01 + _HALF_SUBNORMAL[self.dtype]
            if not np.all(np.abs(value - original) <= bound):
                raise InternalError(
                    "E1308",
                    f"{self.name}: {name} as {self.dtype} is more than half a unit in the last place from its original",
                    fix="this is a defect of the weight's storage transform; report it",
                )
        return decoded


def _stored(tensor: LazyTensor, dtype: str, name: str) -> LazyTensor:
    """`tensor` in `dtype`; a 16-bit tensor that was widened to float32 is taken as it is."""
    if isinstance(tensor, Cast) and tensor.dtype == "float32" and tensor.source.dtype == dtype:
        return tensor.source
    return Cast(tensor, dtype, name)
