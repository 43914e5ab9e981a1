"""Graphs of single operators, from ONNX to compiled code, for tests against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from xamc.compiler.frontends.onnx.model import open_onnx
from xamc.passes.lowering.index_bounds import bound_indices
from xamc.targets.kernels.isa import Isa
from xamc.targets.onnx.names import LIBRARY

Arrays = Mapping[str, NDArray[Any]]
Node = tuple[str, Sequence[str], Sequence[str], Mapping[str, Any]]
"""Operator, inputs, outputs, attributes."""


def build(model: onnx.ModelProto, data_inputs: int, out: Path) -> Path:
    from xamc.targets.onnx.build import build

    onnx.save(model, out / "graph.onnx")
    request = {"graph": str(out / "graph.onnx"), "data_inputs": data_inputs, "isa": Isa.host().name, "dump": None}
    build({**request, "out": str(out)})
    return out / LIBRARY


def run(library: Path, feeds: Arrays) -> list[NDArray[Any]]:
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    result = machine["main"](*[tvm.runtime.tensor(np.ascontiguousarray(array)) for array in feeds.values()])
    outputs = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
    return [output.numpy() for output in outputs]


def graph(
    nodes: Sequence[Node],
    inputs: Mapping[str, tuple[Any, Sequence[int | str]]],
    outputs: Sequence[str],
    constants: Mapping[str, Any] | None = None,
    opset: int = 18,
) -> onnx.ModelProto:
    """A model; the shapes of its outputs are inferred.

    Args:
        nodes: in order.
        inputs: name → dtype and shape.
        outputs: their names.
        constants: name → array.
        opset: the operator set.
    """
    written = [
        helper.make_node(op, list(given), list(made), name=f"/my/{made[0]}", **attributes)
        for op, given, made, attributes in nodes
    ]
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape))
        for name, (dtype, shape) in inputs.items()
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    made = helper.make_graph(written, "g", values, [onnx.ValueInfoProto(name=name) for name in outputs], tensors)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


class Compiled:
    """A model through the route of `xamc compile`, but for weights, in this process."""

    def __init__(self, model: onnx.ModelProto, folder: Path, shapes: Mapping[str, Any] | None = None) -> None:
        onnx.save(model, folder / "m.onnx")
        opened = open_onnx(folder / "m.onnx", shapes or {})
        self.limits = bound_indices(opened.model, opened.symbols)
        proto = ir.to_proto(opened.model)
        proto.ir_version = 10
        self._outputs = [value.name for value in model.graph.output]
        self._library = build(proto, len(model.graph.input), folder)

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        return dict(zip(self._outputs, run(self._library, feeds), strict=True))
