"""Every gear on the twin against the export; and that a wrong graph, or one that touches other rows, is noticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests import twins
from tests.mutation import mutated
from xamc.artifact.gears import GearEntry
from xamc.errors import InternalError
from xamc.ir.tolerances import tolerance
from xamc.passes.graph import cache_rows
from xamc.passes.protocol import GraphPass
from xamc.targets.ascend import gear_proof as gears
from xamc.targets.ascend.gear_proof import GearProof, prove_gears
from xamc.targets.ascend.passes import gear_passes
from xamc.targets.buckets import common_passes

CACHE = (4, 24)
DECODE = [GearEntry(1, 8), GearEntry(3, 8), GearEntry(1, 24), GearEntry(4, 24)]
PREFILL = [GearEntry(1, 4), GearEntry(1, 16)]


def _prove(kind: str, sizes: list[GearEntry], module: object = cache_rows, most_bytes: int = 2**30) -> list[GearProof]:
    original, _ = twins.twin("windowed")

    def make() -> list[GraphPass]:
        rows = module.CacheRows(kind, 24, 4, 1 if kind == "prefill" else None)  # type: ignore[attr-defined]
        return [*common_passes(), *gear_passes(rows)]

    return prove_gears(kind, kind, sizes, original, make, CACHE, most_bytes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "sizes"), [("prefill", PREFILL), ("decode", DECODE)])
def test_every_gear_is_proven(kind: str, sizes: list[GearEntry]) -> None:
    proofs = _prove(kind, sizes)
    assert [proof.gear for proof in proofs] == sizes
    assert all(0 < (proof.deviation or 0) <= tolerance("gears_float16") for proof in proofs)


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        # a token does not see itself
        ("decode", '[own, self.one], "next_slot"', '[own, self.zero], "next_slot"'),
        # right in small gears only
        ("decode", "np.arange(rows.capacity, dtype=np.int64)", "np.minimum(np.arange(rows.capacity), 7)"),
        # written to the next row
        ("decode", 'rows = self.lifted(self.call["batch_index"], [1]', 'rows = self.lifted(self.call["tokens"], [0]'),
        # the first token's logits
        (
            "prefill",
            'self.emit("Slice", [shape, self.one, two], "length")',
            'self.emit("Slice", [shape, self.zero, self.one], "length")',
        ),
    ],
)
def test_a_wrong_graph_is_noticed(kind: str, old: str, new: str) -> None:
    with pytest.raises(Exception, match=r"E1328|E1303|E1313|E1305|E1617"):
        _prove(kind, PREFILL if kind == "prefill" else DECODE, mutated(cache_rows, old, new))


def test_a_gear_that_touches_other_rows_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are right, and a cache outside of the call's rows is not what it was."""
    run: Callable[..., dict[str, object]] = gears.Oracle.run

    def spoiled(self: object, feeds: object) -> dict[str, object]:
        found = run(self, feeds)
        for name in list(found):
            if name == "updated_value.1":
                found[name] = found[name].copy()  # type: ignore[attr-defined]
                found[name][:, -1] += 1  # type: ignore[index]
        return found

    monkeypatch.setattr(gears.Oracle, "run", spoiled)
    with pytest.raises(InternalError, match=r"E1328.*inf"):
        _prove("decode", DECODE[:1])


def test_what_is_too_large_is_said_not_skipped_in_silence() -> None:
    proofs = _prove("prefill", PREFILL, most_bytes=2)
    assert [proof.deviation for proof in proofs] == [None, None] and all("GiB" in proof.not_run for proof in proofs)
