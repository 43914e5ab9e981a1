"""The division of a model, made wrong by one edit of its source, is caught by the proof, an invariant or the golden."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from tests import twins
from tests.golden_files import FOLDER, first_layer, rewrite_text
from tests.mutation import mutated
from tests.passes.graph.sharded import DECODE, static
from xamc.errors import XamcError
from xamc.ir.text import program_text
from xamc.passes.graph.shard import collectives, plan, propagate, reshape, roles, split
from xamc.verify import rank_proof, ranks
from xamc.verify.rank_proof import prove_split

MODULES: dict[str, ModuleType] = {
    "collectives": collectives,
    "plan": plan,
    "propagate": propagate,
    "ranks": ranks,
    "reshape": reshape,
    "roles": roles,
    "split": split,
}
MUTATIONS: dict[str, list[tuple[str, str]]] = {
    "plan": [
        ("start = first + part * heads", "start = first + part"),
        ("start, last = rank * heads, self.num_heads", "start, last = 0, self.num_heads"),
        ("first, last = kv * self.group, (kv + 1) * self.group", "first, last = kv * self.group, self.num_heads"),
        ("kv = rank * kv_heads\n", "kv = rank\n"),
        ("kv, part = divmod(rank, self.replicas)", "part, kv = divmod(rank, self.replicas)"),
        ('_span(rank * self.local("vocab")', '_span(0 * self.local("vocab")'),
    ],
    "roles": [
        ("tensor if share.rank == 0 else", "tensor if share.rank >= 0 else"),
        ("ColumnSlice(part, start, stop)", "ColumnSlice(part, 0, stop - start)"),
        ("RowRanges(part, ((start, stop),))", "RowRanges(part, ((0, stop - start),))"),
        ("part = Pad(part, shape[0], columns, role.fill)", "part = Pad(part, shape[0], columns, 1.0)"),
    ],
    "propagate": [
        ("return a[-1] is not None", "return False"),
        ("return x[-1] is not None", "return False"),
        ("self.partial[self.partial.index(summands[0])] = node.outputs[0]", "pass"),
        ('axes[axis] = Cut("group")', "pass"),
        ("sizes[axis] = state.plan.local(cut.kind) * cut.unit", "pass"),
        ("tuple(axes[axis] for axis in order)", "tuple(axes)"),
    ],
    "reshape": [
        ('first, rest, old = head_cut("head", 1, plan), rest[1:]', 'first, rest, old = Cut("kv_head"), rest[1:]'),
        ("Cut(first.kind, count // total)", "Cut(first.kind, 1)"),
    ],
    "split": [
        ('_insert_after(graph, value, ALL_REDUCE_OP, "partial")', "pass"),
        ("weights[name] = weights[str(value.name)]", "pass"),
        ("state.first_rank_only.add(value)", "pass"),
        ('if axes[-1:] == (Cut("vocab"),):', "if False:"),
        ("for reader, operand in readers:", "for reader, operand in readers[:0]:"),
    ],
    "ranks": [
        ('"Add", [total, part]', '"Add", [total, total]'),
        ('new_node("Concat", parts', 'new_node("Concat", parts[::-1]'),
        ("return np.pad(cache[:, start:stop]", "return np.pad(cache[:, : stop - start]"),
    ],
    "collectives": [
        ('"Concat", [x] * tp', '"Concat", [x] * 2 * tp'),
        ('ir.RefAttr("axis", "axis", ir.AttributeType.INT)', 'ir.AttrInt64("axis", 0)'),
    ],
}
# (twin, ranks, stored): padded groups and sums after biases; heads of a group on several ranks, int8 and float16
SETUPS = ((twins.THREE_GROUPS, 2, False), ("windowed", 8, True), (twins.THREE_GROUPS, 8, False))


def _install(patch: pytest.MonkeyPatch, original: ModuleType, copy: ModuleType) -> None:
    """Puts what a mutated copy defines in place of the original's, wherever it has been imported."""
    users = [*MODULES.values(), rank_proof, sys.modules[__name__]]
    for name, value in vars(original).items():
        if getattr(value, "__module__", None) != original.__name__ or not hasattr(copy, name):
            continue
        for module in users:
            if vars(module).get(name) is value:
                patch.setattr(module, name, getattr(copy, name))


def _caught() -> bool:
    for name, tp, stored in SETUPS:
        program, cases = static(name, DECODE, stored)
        try:
            if not prove_split(split.Shard(tp), program, cases).ok:
                return True
        except (XamcError, ValueError, KeyError, AttributeError):
            return True
    program, _ = static(twins.THREE_GROUPS, DECODE)
    before = first_layer(program_text(program))
    after = first_layer(program_text(split.Shard(2).split(program)[0]))
    return (FOLDER / "passes" / "shard.txt").read_text() != rewrite_text(before, after)


CASES = [(name, old, new) for name, edits in MUTATIONS.items() for old, new in edits]


@pytest.mark.parametrize(("name", "old", "new"), CASES, ids=[f"{name}-{i}" for i, (name, _, _) in enumerate(CASES)])
def test_mutated_division_is_caught(name: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, MODULES[name], mutated(MODULES[name], old, new))
    assert _caught(), f"{name} with {new!r} for {old!r} goes unnoticed"


def test_unmutated_division_is_proven() -> None:
    assert not _caught()
