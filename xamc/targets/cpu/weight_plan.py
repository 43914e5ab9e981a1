"""Which packed buffers the CPU functions take, in which order, and from which stored tensors each is made."""

from __future__ import annotations

from dataclasses import dataclass, field

from xamc.artifact.packing import PackedLayout, WeightFormat, packed_layout
from xamc.ir.dialect import DialectCall, decode
from xamc.ir.relax_program import RelaxProgram
from xamc.passes.lowering.body import Body

# how many stored tensors make up one weight, by kind: the weight or codes, scales, zeros
_PARTS = {"int8": 2, "uint4": 3}


@dataclass(frozen=True)
class PlannedBuffer:
    """One entry of the functions' weights tuple."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class PlannedWeight:
    """A matrix to be packed (`layout` is set), or a float32 vector stored as it is.

    `sources` names the stored tensors: (weight,), (codes, scales) or (codes, scales, zeros).
    """

    sources: tuple[str, ...]
    layout: PackedLayout | None
    buffers: tuple[PlannedBuffer, ...]


@dataclass
class WeightPlan:
    """All weights of a program; `first` gives the position of a weight's first buffer in the weights tuple."""

    weights: list[PlannedWeight] = field(default_factory=list)
    first: dict[tuple[str, ...], int] = field(default_factory=dict)

    @property
    def buffers(self) -> list[PlannedBuffer]:
        """The weights tuple."""
        return [buffer for weight in self.weights for buffer in weight.buffers]

    @property
    def formats(self) -> set[WeightFormat]:
        """How its matrices are stored."""
        return {weight.layout.format for weight in self.weights if weight.layout is not None}

    def add(self, weight: PlannedWeight) -> None:
        """Appends a weight unless it is already there (a tied head)."""
        if weight.sources not in self.first:
            self.first[weight.sources] = len(self.buffers)
            self.weights.append(weight)


def weight_format(call: DialectCall) -> WeightFormat:
    """The packed format of a linear or embedding call."""
    return WeightFormat(call.attributes["format"]["kind"], call.attributes["format"]["group"])


def stored_parts(call: DialectCall) -> int:
    """How many tensors after the first belong to the weight of a linear or embedding call."""
    return _PARTS.get(call.attributes["format"]["kind"], 1)


def plan_weights(program: RelaxProgram) -> WeightPlan:
    """Walks the program in order of execution, so that weights lie in the file in the order they are read."""
    plan = WeightPlan()
    for _, value in Body.of(program.module["main"]).bindings:
        call = decode(value)
        if call is None:
            continue
        rest = list(call.tensors)
        if call.name in ("linear", "embedding"):
            parts = stored_parts(call)
            matrix, rest = rest[1 : 1 + parts], rest[1 + parts :]
            plan.add(_matrix(tuple(t.name for t in matrix), call, [int(d) for d in matrix[0].ty.shape]))
        for tensor in rest:
            if tensor.name in program.weights:
                shape = tuple(int(d) for d in tensor.ty.shape)
                plan.add(PlannedWeight((tensor.name,), None, (PlannedBuffer(tensor.name, "float32", shape),)))
    return plan


def _matrix(sources: tuple[str, ...], call: DialectCall, shape: list[int]) -> PlannedWeight:
    layout = packed_layout(shape[0], shape[1], weight_format(call))
    stem = sources[0].removesuffix(".codes").removesuffix(".weight")
    buffers = tuple(PlannedBuffer(f"{stem}.{b.name}", b.dtype, b.shape) for b in layout.buffers)
    return PlannedWeight(sources, layout, buffers)
