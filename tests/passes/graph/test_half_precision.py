"""float16 graphs: what stays float32, and how far they are from float32 when every operator really rounds."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import PASSES, golden_of
from xamc.errors import InternalError
from xamc.ir.tolerances import tolerance
from xamc.passes.graph import half_precision
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.half_precision import HalfPrecision
from xamc.passes.graph.standard_ops import StandardOps
from xamc.passes.graph.weight_storage import WeightStorage
from xamc.verify.metrics import relative_error
from xamc.verify.oracle import materialize
from xamc.verify.proof import prove


def test_golden() -> None:
    check_golden("passes/half_precision.txt", golden_of("half_precision", half_precision))


@pytest.mark.parametrize("setup", PASSES["half_precision"].setups)
def test_proven_and_all_but_the_islands_is_float16(setup: object) -> None:
    program, cases = twins.twin("windowed")
    prove((*setup.before, HalfPrecision()), program, cases).require()  # type: ignore[attr-defined]
    graph = program.model.graph
    assert ir.DataType.FLOAT not in {value.dtype for value in (*graph.inputs, *graph.outputs)}
    wide = {node.op_type for node in graph for value in node.outputs if value.dtype == ir.DataType.FLOAT}
    assert wide == {"Cast", "RMSNormalization", "Softmax", "Add"}
    for node in graph:
        if node.op_type == "Add" and node.outputs[0].dtype == ir.DataType.FLOAT:
            assert [use.op_type for use, _ in node.outputs[0].uses()] == ["Softmax"]


def test_operators_that_really_round_stay_near() -> None:
    """onnx's reference evaluator rounds after every operator; ONNX Runtime on this CPU need not."""
    setup = PASSES["half_precision"].also
    assert setup is not None
    program, cases = twins.twin("windowed")
    calls = prove(setup.before, program, cases).require().cases
    HalfPrecision().run(program)
    StandardOps(14).run(program)
    weights = materialize(program.weights)
    proto = ir.serde.serialize_model(program.model)
    evaluator = onnx.reference.ReferenceEvaluator(proto)
    worst = 0.0
    for call in calls[:3]:
        feeds, expected = HalfPrecision().adapt(call.feeds, call.fetches)
        found = dict(zip([value.name for value in proto.graph.output], evaluator.run(None, {**weights, **feeds})))
        for name, array in expected.items():
            keep = np.isfinite(array)
            worst = max(worst, relative_error(np.where(keep, found[name], 0), np.where(keep, array, 0)))
    assert 1e-5 < worst <= tolerance("float16_operators")


def test_scores_that_meet_the_mask_do_not_overflow() -> None:
    """-65504 and a score of -100 are -65604, infinite in float16; the sum is float32, and so is its softmax."""
    program = twins.after("windowed", *PASSES["half_precision"].before, HalfPrecision())
    sums = [n for n in twins.nodes(program, "Add") if n.outputs[0].dtype == ir.DataType.FLOAT]
    assert len(sums) == program.config.num_layers
    with np.errstate(over="ignore"):
        assert np.float16(-65504) + np.float16(-100) == -np.inf


def test_what_is_not_prepared_is_refused() -> None:
    with pytest.raises(InternalError, match=r"E1327.*stored as float32"):
        HalfPrecision().run(twins.after("tied", Cleanup()))
    with pytest.raises(InternalError, match=r"E1327.*norm"):
        HalfPrecision().run(twins.after("tied", Cleanup(), WeightStorage("float16")))
