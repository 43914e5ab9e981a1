from __future__ import annotations

import numpy as np
import pytest

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import PREFILL, golden_of
from tests.passes.graph.static_graphs import static_passes
from tests.passes.graph.wide_masks import WideMasks
from xamc.errors import InternalError
from xamc.ir.onnx_graph import constant_array, constant_node, new_node
from xamc.ir.program import Program
from xamc.passes.graph import fp16_clamp
from xamc.passes.graph.fp16_clamp import Fp16Clamp
from xamc.passes.runner import run_passes


def test_golden() -> None:
    check_golden("passes/fp16_clamp.txt", golden_of("fp16_clamp", fp16_clamp))


def test_our_own_masks_need_no_clamp() -> None:
    program, _ = twins.twin("windowed")
    assert run_passes(program, static_passes(PREFILL))[-1].report.total == 0


@pytest.mark.parametrize("low", [-np.inf, np.nan])
def test_a_constant_that_is_not_finite_is_refused_by_name(low: float) -> None:
    program, _ = twins.twin("tied")
    run_passes(program, static_passes(PREFILL))
    for node in twins.nodes(program, "Where"):
        masked = constant_node(np.array(low, np.float32), "lowest")
        program.model.graph.insert_before(node, masked)
        node.replace_input_with(2, masked.outputs[0])
    with pytest.raises(InternalError) as error:
        Fp16Clamp().run(program)
    assert error.value.code == "E1324" and "'lowest'" in error.value.message


def _with_constant(number: float) -> tuple[Program, str]:
    """A twin whose logits are multiplied by a constant."""
    program, _ = twins.twin("tied")
    graph = program.model.graph
    logits = graph.outputs[0]
    factor = constant_node(np.array([number], np.float32), "factor")
    product = new_node("Mul", [logits, factor.outputs[0]], ["product"])
    graph.insert_after(logits.producer(), [factor, product])
    return program, "factor"


@pytest.mark.parametrize(
    ("number", "clamped"), [(65504.0, None), (65505.0, 65504.0), (-1e30, -65504.0), (6e-8, None), (0.0, None)]
)
def test_only_what_is_out_of_range_changes(number: float, clamped: float | None) -> None:
    program, name = _with_constant(number)
    report = Fp16Clamp().run(program)
    assert report.skipped == []
    constants = {node.outputs[0].name: constant_array(node.outputs[0]) for node in twins.nodes(program, "Constant")}
    if clamped is None:
        assert report.total == 0 and constants[name] == [np.float32(number)]
    else:
        assert report.total == 1 and constants[f"{name}.clamped"] == [clamped] and name not in constants


def test_a_constant_that_vanishes_is_reported_and_epsilons_stay() -> None:
    program, name = _with_constant(1e-9)
    norms = [node.attributes["epsilon"].as_float() for node in twins.nodes(program, "RMSNormalization")]
    report = Fp16Clamp().run(program)
    assert report.total == 0 and report.skipped[0].place == name and "becomes 0" in report.skipped[0].reason
    assert norms == [node.attributes["epsilon"].as_float() for node in twins.nodes(program, "RMSNormalization")]


def test_wide_masks_are_wide() -> None:
    program, _ = twins.twin("windowed")
    run_passes(program, static_passes(PREFILL)[:-1])
    assert WideMasks().run(program).total == 2
    assert Fp16Clamp().run(program).matched == {"constant": 2}
