"""A slice of the ONNX project's node tests through the generic route, and what the tool says of them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tools.bench import onnx_nodes
from tools.bench.node_case import AS_CONSTANTS, FAILED, PASSED, REFUSED, WRONG, Outcome, compile_here, in_fork, run_case
from tools.bench.onnx_nodes import Row, node_cases, operators_of, page

#: Case → what becomes of it. Operators as they are, written out as functions, with constant operands, and refused ones.
EXPECTED = {
    "test_celu": PASSED,
    "test_celu_expanded": PASSED,
    "test_basic_conv_with_padding": PASSED,
    "test_layer_normalization_3d_axis1_epsilon": PASSED,
    "test_reshape_negative_dim": AS_CONSTANTS,
    "test_rotary_embedding_interleaved": PASSED,
    "test_castlike_FLOAT_to_DOUBLE": PASSED,
    "test_shape_start_1": PASSED,
    "test_constantofshape_int_zeros": AS_CONSTANTS,
    "test_nonzero_example": REFUSED,
    "test_det_2d": REFUSED,
}
MODULES = (
    "celu",
    "conv",
    "layernormalization",
    "reshape",
    "rotaryembedding",
    "nonzero",
    "det",
    "castlike",
    "shape",
    "constantofshape",
)


@pytest.fixture(scope="module")
def cases() -> dict[str, Any]:
    return {case.name: case for case in node_cases(MODULES)}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_slice(name: str, cases: dict[str, Any]) -> None:
    outcome = run_case(cases[name], compile_here)
    assert outcome.state == EXPECTED[name], outcome
    if outcome.state == REFUSED:
        assert outcome.reason.startswith("E1154"), outcome


def test_operators_are_named(cases: dict[str, Any]) -> None:
    names = operators_of(cases.values())
    assert names["test_celu"] == "Celu" and names["test_celu_expanded"] == "Celu (as a function)"


def test_other_numbers_and_types_are_wrong(cases: dict[str, Any]) -> None:
    case = cases["test_celu"]
    expected = np.asarray(case.data_sets[0][1][0])
    for result in (expected + np.float32(0.01), expected.astype(np.float64), expected[:1]):
        outcome = run_case(case, lambda path, shapes, result=result: lambda *arrays: [result])  # type: ignore[misc]
        assert outcome.state == WRONG, result.dtype
    assert run_case(case, lambda path, shapes: lambda *arrays: [expected]).state == PASSED
    assert run_case(case, lambda path, shapes: lambda *arrays: []).state == WRONG


def test_only_operands_of_size_become_constants(cases: dict[str, Any]) -> None:
    """A case that needs its data as constants has not passed."""
    seen: list[list[str]] = []

    def compile(path: Any, shapes: Any) -> Any:
        seen.append(list(shapes))
        return lambda *arrays: []

    run_case(cases["test_reshape_negative_dim"], compile)
    assert seen == [["data", "shape"], ["data"]]


def test_a_crash_and_a_hang_are_outcomes() -> None:
    crash = in_fork(lambda: os.kill(os.getpid(), 11), 30)  # type: ignore[arg-type, return-value]
    assert crash.state == FAILED and "signal 11" in crash.reason
    slow = in_fork(lambda: os.read(os.pipe()[0], 1), 0.2)  # type: ignore[arg-type, return-value]
    assert slow.state == FAILED and "more than" in slow.reason
    assert in_fork(lambda: Outcome(PASSED), 30) == Outcome(PASSED)


def test_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_nodes, "tool_version", lambda tool: "1")
    rows = [Row("Add", "a", PASSED, ""), Row("Add", "b", REFUSED, "E1"), Row("Abs", "c", AS_CONSTANTS, "")]
    text = page(rows)
    assert "**2 of 3 cases pass (66.7%)**, and 1 of 2 operators" in text
    assert "| Add | 2 | 1 |  | 1 |  |  | 50% |" in text and text.index("| Abs") < text.index("| Add")


def test_the_row_of_the_reliability_page() -> None:
    states = (PASSED, AS_CONSTANTS, REFUSED, WRONG, FAILED)
    row = onnx_nodes.summary([Row("Add", state, state, "") for state in states])
    assert (row.tried, row.failed) == (5, 2) and "2 pass (40.0%), 1 are refused" in row.note


def test_operands_of_other_domains_are_left() -> None:
    """No schema, no constants: the case is judged as it is."""
    from tools.bench.node_case import _size_operands

    node = helper.make_node("Mystery", ["x"], ["y"], domain="my.domain")
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([node], "g", [value], [value])
    assert _size_operands(helper.make_model(graph)) == ()
