import numpy as np
import onnx_ir as ir
import pytest

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import PASSES, golden_text
from xamc.ir.onnx_graph import constant_array, constant_node, new_node
from xamc.ir.program import Program
from xamc.passes.graph import cleanup
from xamc.passes.graph.cleanup import Cleanup


def test_golden() -> None:
    check_golden("passes/cleanup.txt", golden_text("cleanup", PASSES["cleanup"].make(cleanup)))


@pytest.mark.parametrize("kind", twins.KINDS)
def test_every_reshape_is_static_and_shapes_are_not_computed(kind: str) -> None:
    program = twins.after(kind, Cleanup())
    reshapes = twins.nodes(program, "Reshape")
    assert len(reshapes) == 4 * program.config.num_layers
    for node in reshapes:
        shape = constant_array(node.inputs[1])
        assert shape is not None and list(shape[:2]) == [0, 0] and (shape[2:] > 0).all()
    assert not twins.nodes(program, "Concat") and not twins.nodes(program, "Identity")
    # what is left of run-time sizes is the mask's key length
    assert len(twins.nodes(program, "Shape")) == (2 if kind == "windowed" else 0)


def test_weights_are_never_folded() -> None:
    program = twins.after("tied", Cleanup())
    assert {value.name for value in program.weight_inputs()} == set(program.weights)
    assert len(twins.nodes(program, "Transpose")) == 7 * 2 + 1 + 4 * 2


def _program(nodes: list[ir.Node], inputs: list[ir.Value], outputs: list[ir.Value]) -> Program:
    graph = ir.Graph(inputs, outputs, nodes=nodes, opset_imports={"": 24}, name="hand_made")
    return Program(ir.Model(graph, ir_version=11), {}, twins.config("tied"))


def test_folds_constants_by_their_meaning() -> None:
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=["n", 2])
    a = constant_node(np.array([1.0, 2.0], np.float32), "a")
    b = constant_node(np.array([10.0, 20.0], np.float32), "b")
    total = new_node("Sub", [b.outputs[0], a.outputs[0]], ["difference"])
    y = new_node("Add", [x, total.outputs[0]], ["y"])
    y.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    program = _program([a, b, total, y], [x], [y.outputs[0]])
    report = Cleanup().run(program)
    assert report.matched["constant"] == 1
    assert [node.op_type for node in program.model.graph] == ["Constant", "Add"]
    np.testing.assert_array_equal(constant_array(y.inputs[1]), np.array([9.0, 18.0], np.float32))


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (("b", "s", 64), ("b", "s", -1, 16), [0, 0, 4, 16]),
        (("b", "s", 4, 16), ("b", "s", 64), [0, 0, 64]),
        (("b", "s", 4), (4, "b", "s"), None),
        (("b", 4, "s"), ("b", "s", 4), [0, -1, 4]),
        (("b", 4), ("b", 0), None),
        (("b", None), ("b", None), None),
        ((6, 4), (-1, 3), [8, 3]),
        (("b", 5), ("b", -1, 2), [0, -1, 2]),
    ],
)
def test_static_reshape(source: tuple[object, ...], target: tuple[object, ...], expected: list[int] | None) -> None:
    assert cleanup._static_reshape(source, target) == expected  # type: ignore[arg-type]


def test_a_shape_from_data_is_reported() -> None:
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=["n", 4])
    shape = ir.val("shape", dtype=ir.DataType.INT64, shape=[2])
    node = new_node("Reshape", [x, shape], ["y"])
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    report = Cleanup().run(_program([node], [x, shape], [node.outputs[0]]))
    assert [(miss.place, miss.reason) for miss in report.skipped] == [
        ("y", "its shape is computed from data, not from sizes")
    ]


def test_outputs_keep_their_own_node() -> None:
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=[2])
    first, second = new_node("Sigmoid", [x], ["first"]), new_node("Sigmoid", [x], ["second"])
    for node in (first, second):
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    program = _program([first, second], [x], [first.outputs[0], second.outputs[0]])
    Cleanup().run(program)
    assert [value.name for value in program.model.graph.outputs] == ["first", "second"]
    assert len(list(program.model.graph)) == 2
