"""Which axis of which weight the ranks share out, as the layer table says, and a rank's part of a tensor."""

from __future__ import annotations

import re
from dataclasses import dataclass

from xamc.errors import InternalError
from xamc.ir.weights.lazy import LazyTensor, RowRanges
from xamc.ir.weights.transforms import ColumnSlice, Pad, Zeros
from xamc.model.layer import Layer, Size
from xamc.model.parameters import part_of
from xamc.passes.graph.shard.plan import Kind, ShardPlan, Share


@dataclass(frozen=True)
class Cut:
    """An axis that the ranks share out: things of a kind, one after the other, each `unit` numbers wide."""

    kind: Kind
    unit: int = 1


Axes = tuple[Cut | None, ...]
"""One entry per axis; None for an axis that every rank has whole."""


@dataclass(frozen=True)
class Role:
    """How the ranks hold a weight: `axes` are shared out, `first_rank_only` is zero on all others."""

    axes: Axes
    first_rank_only: bool = False
    # a padded row of quantized zeros has scale 1, as any row of zeros has
    fill: float = 0.0


_QUANTIZED = re.compile(r"\.(?P<part>codes|scales|zeros)$")
_KV_PARAMETER = re.compile(r"^(?:past|present)_(?:key|value)\.\d+\.(?P<part>\w+)$")


def role_of(name: str, shape: tuple[int, ...], layer: Layer, plan: ShardPlan) -> Role:
    """How a weight is held; what belongs to no linear (norms, the embedding, tables) lies on every rank whole.

    Raises:
        InternalError: E1332 for a weight whose size contradicts the config, or quantized in groups of columns that
            would be cut.
    """
    quantizer = _KV_PARAMETER.search(name)
    if quantizer is not None:
        fill = 1.0 if quantizer["part"] == "scales" else 0.0
        return _checked(name, shape, Role((head_cut("kv_head", 1, plan), *[None] * (len(shape) - 1)), fill=fill), plan)
    match = _QUANTIZED.search(name)
    part = match["part"] if match else None
    parameter = name if match is None else name[: match.start()]
    owner = part_of(layer, parameter)
    whole: Axes = (None,) * len(shape)
    if owner is None or not owner.is_linear:
        return Role(whole)
    rows, columns = (_cut(size, plan) for size in owner.axes)
    if columns is None:
        return _checked(name, shape, Role((rows, *whole[1:]), fill=1.0 if part == "scales" else 0.0), plan)
    if parameter.endswith(".bias"):
        return Role(whole, first_rank_only=True)
    if part in ("scales", "zeros"):
        if len(shape) > 1 and shape[1] > 1:
            raise InternalError(
                "E1332",
                f"shard: {name} has {shape[1]} groups of columns, which the ranks would cut",
                fix="quantize with one scale per row (w8a16_gptq), or compile for one rank",
            )
        return Role(whole)
    return _checked(name, shape, Role((None, columns)), plan)


def head_cut(kind: Kind, unit: int, plan: ShardPlan) -> Cut:
    """A cut into heads. Without groups there is no difference between KV heads and query heads."""
    return Cut("head" if kind == "kv_head" and plan.group == 1 else kind, unit)


def _cut(size: Size, plan: ShardPlan) -> Cut | None:
    if size in ("head", "kv_head"):
        return head_cut(size, plan.head_dim, plan)
    return Cut(size) if size in ("intermediate", "vocab") else None


def _checked(name: str, shape: tuple[int, ...], role: Role, plan: ShardPlan) -> Role:
    for size, cut in zip(shape, role.axes, strict=True):
        if cut is not None and size != plan.total(cut.kind) * cut.unit:
            wanted = f"{plan.total(cut.kind)} × {cut.unit}"
            raise InternalError(
                "E1332",
                f"shard: {name} is {list(shape)}; the config implies {wanted} ({cut.kind})",
                fix="the weights do not belong to this config.json, or a pass has changed them; report this model",
            )
    return role


def local_shape(shape: tuple[int, ...], axes: Axes, plan: ShardPlan) -> tuple[int, ...]:
    """The shape of every rank's part."""
    return tuple(
        size if cut is None else plan.local(cut.kind) * cut.unit for size, cut in zip(shape, axes, strict=True)
    )


def rank_part(tensor: LazyTensor, role: Role, plan: ShardPlan, share: Share) -> LazyTensor:
    """A rank's part of a weight, read from the whole one row block by row block.

    Columns of a row-parallel weight are cut out of whole rows: all ranks together read such a file once per rank.
    """
    if role.first_rank_only:
        return tensor if share.rank == 0 else Zeros(tuple(tensor.shape), tensor.dtype)
    shape = local_shape(tuple(tensor.shape), role.axes, plan)
    part = tensor
    for axis, cut in enumerate(role.axes):
        if cut is None:
            continue
        start, stop = (index * cut.unit for index in share.of(cut.kind))
        if (start, stop) != (0, part.shape[axis]):
            part = RowRanges(part, ((start, stop),)) if axis == 0 else ColumnSlice(part, start, stop)
    if tuple(part.shape) != shape:
        columns = shape[1] if len(shape) == 2 and part.shape[1] != shape[1] else None
        part = Pad(part, shape[0], columns, role.fill)
    return part
