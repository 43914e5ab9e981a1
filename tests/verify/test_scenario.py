"""The calls of a proof."""

import pytest

from tests.passes.relax import cases
from xamc.verify.scenario import several_rows


@pytest.mark.parametrize("kind", ["tied", "windowed"])
def test_the_proof_runs_rows_of_different_lengths(kind: str) -> None:
    calls = several_rows(cases.lowered(kind, "w4")[1], 32)
    assert [len(call.feeds["input_ids"]) for call in calls] == [2, 32] * 3
    for call in calls:
        lengths = call.feeds["write_index"]
        assert len(set(lengths[:2].tolist())) == 2 and len(set(lengths.tolist())) == min(3, len(lengths))
        assert all(len(call.feeds[name]) == len(lengths) for name in call.feeds if not name.startswith("rope_"))
        assert len(call.fetches["logits"]) == len(lengths)
