from __future__ import annotations

import numpy as np
import pytest

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import DECODE, PREFILL, golden_of
from tests.passes.graph.static_graphs import static_passes
from xamc.errors import InternalError
from xamc.passes.graph import insert_slice
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.insert_slice import InsertSlice
from xamc.passes.graph.phase import StaticPhase
from xamc.passes.runner import run_passes
from xamc.verify.proof import prove


def test_golden() -> None:
    check_golden("passes/insert_slice.txt", golden_of("insert_slice", insert_slice))


def test_it_stands_between_the_final_norm_and_lm_head() -> None:
    program = twins.after("windowed", Cleanup(), StaticPhase(PREFILL), InsertSlice())
    last = twins.nodes(program, "Slice")[-1]
    assert last.inputs[0].producer().op_type == "RMSNormalization"
    assert [node.op_type for node, _ in last.outputs[0].uses()] == ["MatMul"]
    assert list(program.model.graph.outputs[0].shape or ()) == [1, 1, 100]


def test_without_it_all_positions_have_logits() -> None:
    program, cases = twins.twin("tied")
    prove([p for p in static_passes(PREFILL) if p.name != "insert_slice"], program, cases).require()
    assert list(program.model.graph.outputs[0].shape or ()) == [1, 9, 100]


def test_a_decode_graph_and_a_dynamic_one_are_left_alone() -> None:
    for program, why in (
        (twins.after("tied", Cleanup(), StaticPhase(DECODE)), "one position"),
        (twins.after("tied", Cleanup()), "dynamic"),
    ):
        report = InsertSlice().run(program)
        assert report.total == 0 and why in report.skipped[0].reason
    program, _ = twins.twin("tied")
    assert "insert_slice" not in [run.name for run in run_passes(program, static_passes(DECODE))]


def test_adapt_expects_the_last_position() -> None:
    logits = np.arange(24.0).reshape(1, 4, 6)
    _, expected = InsertSlice().adapt({}, {"logits": logits})
    np.testing.assert_array_equal(expected["logits"], logits[:, 3:])


def test_another_head_is_refused_in_its_name() -> None:
    program = twins.after("tied", Cleanup(), StaticPhase(PREFILL))
    program.model.graph.outputs[0].name = "product"
    norm = twins.nodes(program, "RMSNormalization")[-1].outputs[0]
    norm.name = "logits"
    program.model.graph.outputs[0] = norm
    with pytest.raises(InternalError, match="insert_slice: logits are not the product"):
        InsertSlice().run(program)
