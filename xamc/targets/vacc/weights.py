"""Which buffers the simulator's code reads for each weight of a rank's graph.

Matrices of linear layers are packed into the kernels' panels when the artifact is loaded; everything else is read as
it is stored in mod.params.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir

from xamc.artifact.packing import WeightFormat, packed_layout
from xamc.ir.names import QUANTIZED_LINEAR_OP, VASTAI_DOMAIN
from xamc.ir.onnx_graph import static_dims
from xamc.ir.program import Program

Packing = Literal["stored", "float16", "float32", "int8"]
"""How a weight reaches the code: as it is stored, or in panels of one of these kinds."""

_DTYPES = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.INT8: "int8",
}


@dataclass(frozen=True)
class CodeBuffer:
    """One tensor of the weights tuple."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class PlannedWeight:
    """One weight: the tensors of mod.params it is made of (codes and scales of a quantized matrix), and its buffers."""

    sources: tuple[str, ...]
    shape: tuple[int, ...]
    packing: Packing
    buffers: tuple[CodeBuffer, ...]


@dataclass
class WeightPlan:
    """Weights by the name of their first tensor, and where each one's buffers begin in the weights tuple."""

    weights: dict[str, PlannedWeight] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)

    @property
    def buffers(self) -> list[CodeBuffer]:
        """The weights tuple."""
        return [buffer for weight in self.weights.values() for buffer in weight.buffers]

    def add(self, weight: PlannedWeight) -> None:
        """Appends a weight to the tuple."""
        self.first[weight.sources[0]] = len(self.buffers)
        self.weights[weight.sources[0]] = weight


def plan_weights(program: Program) -> WeightPlan:
    """The weights tuple of a rank's graph, in the order of its weight inputs."""
    graph = program.model.graph
    matrices = {weight for node in graph for weight in [linear_weight(node)] if weight is not None}
    codes = {
        node.inputs[1]: node.inputs[2]
        for node in graph
        if (node.domain, node.op_type) == (VASTAI_DOMAIN, QUANTIZED_LINEAR_OP)
    }
    scales = set(codes.values())
    plan = WeightPlan()
    for value in program.weight_inputs():
        name, shape = str(value.name), static_dims(value) or ()
        assert value.dtype is not None
        dtype = _DTYPES[value.dtype]
        if value in codes:
            scale = codes[value]
            assert scale is not None
            plan.add(_packed((name, str(scale.name)), shape, "int8"))
        elif value in matrices:
            plan.add(_packed((name,), shape, "float16" if dtype == "float16" else "float32"))
        elif value not in scales:
            flat = CodeBuffer(name, dtype, (_elements(shape),))
            plan.add(PlannedWeight((name,), shape, "stored", (flat,)))
    return plan


def linear_weight(node: ir.Node) -> ir.Value | None:
    """The weight input [O, K] of MatMul(x, Transpose(Cast(weight))), or None when `node` is none."""
    if node.op_type != "MatMul" or node.domain != "":
        return None
    transpose = node.inputs[1].producer() if node.inputs[1] is not None else None
    if transpose is None or transpose.op_type != "Transpose":
        return None
    value = transpose.inputs[0]
    while value is not None and value.producer() is not None:
        cast = value.producer()
        if cast is None or cast.op_type != "Cast":
            return None
        value = cast.inputs[0]
    return value


def _packed(
    sources: tuple[str, ...], shape: tuple[int, ...], kind: Literal["float16", "float32", "int8"]
) -> PlannedWeight:
    layout = packed_layout(shape[0], shape[1], WeightFormat(kind))
    stem = sources[0].removesuffix(".codes").removesuffix(".weight")
    buffers = tuple(CodeBuffer(f"{stem}.{b.name}", b.dtype, b.shape) for b in layout.buffers)
    return PlannedWeight(sources, shape, kind, buffers)


def _elements(shape: tuple[int, ...]) -> int:
    total = 1
    for dim in shape:
        total *= dim
    return total
