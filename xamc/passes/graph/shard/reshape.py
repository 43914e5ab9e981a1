"""What a Reshape makes of shared-out axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from xamc.passes.graph.shard.plan import ShardPlan
from xamc.passes.graph.shard.roles import Axes, Cut, head_cut

Dim = int | str | None
# stands for a size that is only a symbol; a prime beyond any real size, so that products of sizes stay distinct
_FIRST_PRIME = 2**61 - 1


def reshaped(before: Sequence[Dim] | None, after: Sequence[Dim] | None, axes: Axes, plan: ShardPlan) -> Axes | None:
    """Cuts of the result of a Reshape from sizes `before` to `after`; None where they can't be followed.

    An axis of n things of u numbers becomes n × u or (n u'), one of KV heads × group becomes query heads, and back.
    """
    if before is None or after is None:
        return None
    result: list[Cut | None] = []
    for old, new in _segments(before, after):
        cuts = [axes[axis] for axis in old]
        if all(cut is None for cut in cuts):
            result += [None] * len(new)
            continue
        found = _segment(cuts, [before[axis] for axis in old], [after[axis] for axis in new], plan)
        if found is None:
            return None
        result += found
    return tuple(result)


def _segments(before: Sequence[Dim], after: Sequence[Dim]) -> Iterator[tuple[range, range]]:
    """Runs of axes of equal product, as short as they can be; axes of size 1 at the end belong to the last."""
    symbols = {dim for dim in (*before, *after) if not isinstance(dim, int)}
    numbers = {symbol: _FIRST_PRIME + 2 * i for i, symbol in enumerate(sorted(symbols, key=str))}
    old = [dim if isinstance(dim, int) else numbers[dim] for dim in before]
    new = [dim if isinstance(dim, int) else numbers[dim] for dim in after]
    i = j = 0
    while i < len(old) and j < len(new):
        start, begin = i, j
        left, right = old[i], new[j]
        i, j = i + 1, j + 1
        while left != right and (i < len(old) or j < len(new)):
            if (left < right and i < len(old)) or j == len(new):
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        if i == len(old) or j == len(new):
            i, j = len(old), len(new)
        yield range(start, i), range(begin, j)


def _segment(cuts: list[Cut | None], old: list[Dim], new: list[Dim], plan: ShardPlan) -> list[Cut | None] | None:
    first, rest = cuts[0], cuts[1:]
    if first is None:
        return None
    if first.kind == "kv_head" and first.unit == 1 and rest[:1] == [Cut("group")]:
        # repeated KV heads are query heads
        first, rest, old = head_cut("head", 1, plan), rest[1:], [_times(old[0], old[1]), *old[2:]]
    if any(cut is not None for cut in rest) or not all(isinstance(size, int) for size in (*old[1:], *new)):
        return None
    unit, total = first.unit * _product(old[1:]), plan.total(first.kind)
    count = new[0]
    if isinstance(count, int) and count * _product(new[1:]) == total * unit and count % total == 0:
        return [Cut(first.kind, count // total), *[None] * (len(new) - 1)]
    if first.kind == "head" and new[:2] == [plan.num_kv_heads, plan.group]:
        return [head_cut("kv_head", 1, plan), Cut("group"), *[None] * (len(new) - 2)]
    return None


def _product(sizes: Sequence[Dim]) -> int:
    product = 1
    for size in sizes:
        assert isinstance(size, int)
        product *= size
    return product


def _times(a: Dim, b: Dim) -> Dim:
    return a * b if isinstance(a, int) and isinstance(b, int) else None
