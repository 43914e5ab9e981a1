from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests import twins
from xamc.errors import InputError, InternalError
from xamc.ir.program import Program
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.kv_cache import KvCache
from xamc.passes.graph.last_position import LastPosition
from xamc.passes.graph.norms import Norms
from xamc.passes.graph.swiglu import SwiGlu
from xamc.passes.protocol import NonMatch, PassReport, SameSignature
from xamc.passes.runner import PassRun, run_passes, select_passes


def _all() -> list[object]:
    return [Cleanup(), Norms(), SwiGlu(), LastPosition(), KvCache()]


def test_runs_in_order_reports_and_calls_back() -> None:
    program, _ = twins.twin("tied")
    seen: list[tuple[str, int]] = []

    def on_pass(run: PassRun, after: Program) -> None:
        seen.append((run.name, len(list(after.model.graph))))

    runs = run_passes(program, _all(), on_pass=on_pass)  # type: ignore[arg-type]
    assert [run.name for run in runs] == ["cleanup", "norms", "swiglu", "last_position", "kv_cache"]
    assert [name for name, _ in seen] == [run.name for run in runs]
    assert all(run.seconds > 0 for run in runs)
    assert seen[2][1] < seen[1][1], "swiglu makes the graph smaller"


def test_disabled_passes_are_left_out() -> None:
    program, _ = twins.twin("tied")
    runs = run_passes(program, _all(), disable=["swiglu", "kv_cache"])  # type: ignore[arg-type]
    assert [run.name for run in runs] == ["cleanup", "norms", "last_position"]
    assert twins.nodes(program, "Sigmoid")


def test_expected_counts_by_pass_by_rule_and_by_export() -> None:
    program, _ = twins.twin("tied")
    expect = {"swiglu": 2, "kv_cache": 2, "attention": 2, "rope": 4, "norm": 5, "reshape_shape": 8, "norms": 0}
    run_passes(program, _all(), expect=expect)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("expect", "found"), [({"swiglu": 3}, 2), ({"attention": 48}, 2), ({"norms": 5}, 0), ({"identity": 1}, 2)]
)
def test_another_count_is_an_error_with_both_numbers(expect: dict[str, int], found: int) -> None:
    program, _ = twins.twin("tied")
    with pytest.raises(InputError) as error:
        run_passes(program, _all(), expect=expect)  # type: ignore[arg-type]
    ((name, wanted),) = expect.items()
    assert error.value.code == "E1307"
    assert error.value.message == f"passes.expect: {name} matched {found} times, not {wanted}"


def test_a_disabled_pass_that_is_expected_does_not_pass_silently() -> None:
    program, _ = twins.twin("tied")
    with pytest.raises(InputError) as error:
        run_passes(program, _all(), disable=["swiglu"], expect={"swiglu": 2})  # type: ignore[arg-type]
    assert error.value.code == "E1307"


def test_unknown_names_get_a_hint() -> None:
    for key in ("disable", "expect"):
        program, _ = twins.twin("tied")
        with pytest.raises(InputError) as error:
            run_passes(program, _all(), **({"disable": ["swigul"]} if key == "disable" else {"expect": {"swigul": 1}}))  # type: ignore[arg-type]
        assert error.value.code == "E1306" and f"passes.{key}" in error.value.message
        assert error.value.fix == "did you mean swiglu?"


def test_a_required_pass_stays() -> None:
    with pytest.raises(InputError) as error:
        select_passes(_all(), ["kv_cache"], required=["kv_cache"])  # type: ignore[arg-type]
    assert error.value.code == "E1314" and "kv_cache" in error.value.message
    assert len(select_passes(_all(), ["swiglu"], required=["kv_cache"])) == 4  # type: ignore[arg-type]


def test_names_of_another_stage_are_accepted() -> None:
    program, _ = twins.twin("tied")
    run_passes(program, _all(), disable=["concat"], expect={"fuse": 7}, elsewhere=["concat", "fuse"])  # type: ignore[arg-type]


@dataclass
class Misses(SameSignature):
    """Matches nothing and says why."""

    name: str = "misses"
    tolerance: str = "exact"

    def run(self, program: Program) -> PassReport:
        return PassReport(skipped=[NonMatch("model.layers.7.mlp", "the gate has two readers")])


def test_reasons_of_non_matches_reach_the_error() -> None:
    program, _ = twins.twin("tied")
    with pytest.raises(InputError) as error:
        run_passes(program, [Misses()], expect={"misses": 1})
    assert error.value.details == ("model.layers.7.mlp: the gate has two readers",)


@dataclass
class Crashes(SameSignature):
    """Stops with an error of its own."""

    name: str = "crashes"
    tolerance: str = "exact"

    def run(self, program: Program) -> PassReport:
        raise ValueError("no such axis")


def test_a_crash_names_the_pass() -> None:
    program, _ = twins.twin("tied")
    with pytest.raises(InternalError) as error:
        run_passes(program, [Crashes()])
    assert error.value.code == "E1313"
    assert error.value.message == "crashes stopped: ValueError: no such axis"
