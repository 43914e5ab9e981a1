import pytest

from tests.golden_files import check_golden
from tests.mutation import mutated
from tests.passes.relax import cases
from xamc.ir.tolerances import tolerance
from xamc.passes.relax import rope_cache
from xamc.passes.relax.rope_cache import RopeCache


@pytest.mark.parametrize("kind", ["tied", "windowed"])
def test_rope_and_cache_update_are_merged_and_outputs_are_kept(kind: str) -> None:
    deviation, program, report = cases.run(RopeCache(), kind)
    assert deviation <= tolerance("reassociated")
    assert report.matched == {"attention": 2}
    script = program.module.script()
    for gone in ("xamc.rotary_embedding", "xamc.tensor_scatter", "R.permute_dims"):
        assert gone not in script


def test_without_merged_projections_the_reason_is_reported() -> None:
    report = RopeCache().run(cases.before("tied", "concat_projections"))
    assert report.total == 0
    assert {s.reason for s in report.skipped} == {"q, k or v is not a reshaped part of a projection"}


def test_golden() -> None:
    check_golden("passes/relax_rope_cache.txt", cases.rewrite(RopeCache(), "windowed"))


@pytest.mark.parametrize(
    "old, new",
    [
        ('"window": call.attributes["window"]', '"window": None'),
        (
            "replaced[cache_key], replaced[cache_value] = parts[1], parts[2]",
            "replaced[cache_key], replaced[cache_value] = parts[2], parts[1]",
        ),
        ('"scale": call.attributes["scale"]', '"scale": -call.attributes["scale"]'),
    ],
)
def test_mutations_are_noticed(old: str, new: str) -> None:
    wrong = mutated(rope_cache, old, new)
    deviation, _, _ = cases.run(wrong.RopeCache(), "windowed")
    assert deviation > tolerance("reassociated")
