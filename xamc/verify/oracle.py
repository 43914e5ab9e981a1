"""ONNX Runtime as the judge of what a graph means: fp32 on the CPU, every graph optimization off.

With optimizations on it fuses dequantize + matmul with int8 activations and keeps fp32 between fp16 operators, and
would then judge something else than the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from xamc.errors import InternalError
from xamc.ir.program import Program
from xamc.ir.weights.lazy import LazyTensor

Array = NDArray[np.generic]

_PACKED = ("uint4", "int4")


def read_all(tensor: LazyTensor) -> Array:
    """A whole lazy tensor in memory; for twins and other small things only."""
    return tensor.read_rows(0, tensor.shape[0])


def materialize(weights: Mapping[str, LazyTensor]) -> dict[str, Array]:
    """All tensors of a twin in memory."""
    return {name: read_all(tensor) for name, tensor in weights.items()}


@dataclass
class Oracle:
    """A session on one graph. Weights are fed like any other input and kept between runs.

    Raises:
        InternalError: E1303 when ONNX Runtime refuses the graph.
    """

    model: ir.Model
    weights: Mapping[str, Array]
    threads: int = 1
    extra_outputs: Sequence[str] = ()
    _session: ort.InferenceSession = field(init=False, repr=False)

    def __post_init__(self) -> None:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        proto = ir.serde.serialize_model(self.model)
        packed = {name for name, array in self.weights.items() if array.dtype.name in _PACKED}
        # two of these share a byte in ONNX Runtime, and only an initializer can hold them
        for index in reversed([i for i, value in enumerate(proto.graph.input) if value.name in packed]):
            name = proto.graph.input[index].name
            proto.graph.initializer.append(ir.serde.serialize_tensor(ir.tensor(self.weights[name], name=name)))
            del proto.graph.input[index]
        present = {output.name for output in proto.graph.output}
        for name in self.extra_outputs:
            if name not in present:
                proto.graph.output.add().name = name
        try:
            self._session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise InternalError(
                "E1303",
                "ONNX Runtime refuses the graph",
                fix="look at the graph with --dump-ir DIR; the pass named above made it",
                details=(str(error),),
            ) from error
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._outputs = [value.name for value in self._session.get_outputs()]
        self._bound = {name: _value(array) for name, array in self.weights.items() if name in self._inputs}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Runs one call; returns every output by name.

        Raises:
            InternalError: E1304 when a feed is missing or ONNX Runtime fails.
        """
        missing = self._inputs - set(self._bound) - set(feeds)
        if missing:
            raise InternalError("E1304", f"no feed for the graph inputs {', '.join(sorted(missing))}")
        values = dict(self._bound)
        values.update({name: _value(array) for name, array in feeds.items() if name in self._inputs})
        try:
            results = self._session.run_with_ort_values(self._outputs, values)
        except Exception as error:
            raise InternalError("E1304", "ONNX Runtime failed to run the graph", details=(str(error),)) from error
        return {name: value.numpy() for name, value in zip(self._outputs, results, strict=True)}


def _value(array: Array) -> ort.OrtValue:
    array = np.ascontiguousarray(array)
    if array.dtype.name == "bfloat16":
        # a type that NumPy has only through ml_dtypes
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), int(ir.DataType.BFLOAT16))
    return ort.OrtValue.ortvalue_from_numpy(array)


def oracle_of(program: Program, extra_outputs: Sequence[str] = ()) -> Oracle:
    """The oracle of a small program, with all its weights in memory."""
    return Oracle(program.model, materialize(program.weights), extra_outputs=extra_outputs)
