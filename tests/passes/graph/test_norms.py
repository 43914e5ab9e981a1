import pytest

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import PASSES, golden_text
from tests.passes.graph.open_norms import OpenNorms
from xamc.passes.graph import norms
from xamc.passes.graph.norms import Norms
from xamc.passes.protocol import NonMatch
from xamc.verify.proof import prove


def test_golden() -> None:
    check_golden("passes/norms.txt", golden_text("norms", PASSES["norms"].make(norms)))


@pytest.mark.parametrize("reciprocal", [False, True])
def test_recognizes_both_forms(reciprocal: bool) -> None:
    program, cases = twins.twin("tied")
    report = prove([OpenNorms(reciprocal), Norms()], program, cases).require()
    assert report.passes[-1].report.matched == {"norm": 5}
    found = twins.nodes(program, "RMSNormalization")
    assert len(found) == 5 and not twins.nodes(program, "ReduceMean")
    assert {node.attributes["epsilon"].as_float() for node in found} == {1e-5}
    assert found[-1].metadata_props["xamc.module"] == "model.norm"


def test_a_finished_export_has_nothing_left() -> None:
    program, _ = twins.twin("tied")
    report = Norms().run(program)
    assert report.total == 0 and report.skipped == []


def test_another_axis_is_no_norm_and_says_why() -> None:
    program = twins.after("tied", OpenNorms(axis=1))
    report = Norms().run(program)
    assert report.total == 0
    assert report.skipped[0] == NonMatch(
        "model.layers.0.input_layernorm", "the mean runs over axes [1], not over the last"
    )


def test_a_scale_that_is_no_weight_is_left_alone() -> None:
    program = twins.after("tied", OpenNorms())
    weight = next(value for value in program.weight_inputs() if value.name == "model.norm.weight")
    weight.metadata_props.clear()
    report = Norms().run(program)
    assert report.matched == {"norm": 4}
    assert report.skipped == [NonMatch("model.norm", "the scale is not a weight of the input's last size")]
