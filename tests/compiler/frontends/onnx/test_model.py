"""ONNX models as static graphs: shapes, functions, operators, types; what the graph computes stays the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from tests.onnx_models import MODELS, SHAPES, Graph, feeds, reference, vit, write
from xamc.compiler.frontends.onnx.model import open_onnx
from xamc.errors import InputError, UnsupportedError
from xamc.ir.tolerances import tolerance
from xamc.verify.metrics import relative_error


def saved(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("kind", MODELS)
def test_simplified_graphs_compute_the_same(kind: str, tmp_path: Path) -> None:
    opened = open_onnx(write(kind, tmp_path / "m.onnx"), SHAPES[kind])
    given, expected = feeds(kind), reference(MODELS[kind](), feeds(kind))
    actual = reference(ir.to_proto(opened.model), given)
    for name in expected:
        assert relative_error(actual[name], expected[name]) <= tolerance("graph_fp32")
    assert "Shape" not in opened.operators and "BatchNormalization" not in opened.operators
    assert all(isinstance(dim, int) for value in opened.model.graph.outputs for dim in value.shape or (None,))


@pytest.mark.parametrize(
    ("change", "code", "words", "fix"),
    [
        ({"inputids": [1, 16]}, "E1155", "inputids is not an input", "did you mean input_ids"),
        ({"input_ids": [1, 16, 1]}, "E1155", "3 dimensions", "write 2"),
        ({"input_ids": [1, -1]}, "E1156", "not fixed", "frontend.shape"),
        ({"input_ids": [[1, 8], [1, 64]]}, "E1192", "8 to 64", "the same range"),
        ({"input_ids": [[1, 8], [4, 4]]}, "E1192", "neither a shape", "no smaller"),
        ({"input_ids": [[1, 8], [1, 16], [1, 64]]}, "E1192", "neither a shape", "or two"),
        ({"gather_3": [1, 16]}, "E1155", "inner value", "from its inputs"),
        ({"input_ids": None}, "E1156", "not fixed", "input_ids: "),
    ],
)
def test_shapes_are_checked(change: dict[str, Any], code: str, words: str, fix: str, tmp_path: Path) -> None:
    shapes = {name: shape for name, shape in {**SHAPES["bert"], **change}.items() if shape is not None}
    path = write("bert", tmp_path / "m.onnx")
    if "gather_3" in change:
        name = next(node.output[0] for node in onnx.load(path).graph.node if node.op_type == "Gather")
        shapes[name] = shapes.pop("gather_3")
    with pytest.raises((InputError, UnsupportedError), match=words) as caught:
        open_onnx(path, shapes)
    assert caught.value.code == code and fix in caught.value.fix


def test_open_dimensions_are_listed(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        open_onnx(write("bert", tmp_path / "m.onnx"), {})
    assert len(caught.value.details) == 3 and "batch, tokens" in caught.value.details[0]


def test_fixed_dimensions_are_not_changed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fixes it") as caught:
        open_onnx(write("resnet", tmp_path / "m.onnx"), {"input.1": [1, 3, 64, 64]})
    assert "[1, 3, 32, 32]" in caught.value.fix


def test_only_a_dimension_that_the_file_states_may_be_zero(tmp_path: Path) -> None:
    """An input may be there for its type alone; a size that is left open may not be taken for nothing."""
    for dim, refused in ((0, False), ("n", True)):
        g = Graph()
        y = g.add("CastLike", "x", "like")
        inputs: dict[str, tuple[int, list[Any]]] = {
            "x": (TensorProto.INT32, [2, 3]),
            "like": (TensorProto.FLOAT, [dim]),
        }
        model = saved(g.model(inputs, {"y": (y, [2, 3])}), tmp_path / "m.onnx")
        if refused:
            with pytest.raises(InputError, match="not fixed"):
                open_onnx(model, {"like": [0]})
        else:
            assert open_onnx(model, {"like": [0]}).operators.keys() <= {"Cast", "CastLike", "Identity"}


def test_constants_are_tensors(tmp_path: Path) -> None:
    """TVM's importer knows no other ones; the shape of an input is folded into a list of numbers."""
    g = Graph()
    y = g.add("Shape", "x")
    model = g.model({"x": (TensorProto.FLOAT, [2, 3])}, {"y": (y, [2])})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    model.graph.node.pop()  # the Identity, which would be folded into an initializer
    model.graph.node[-1].output[0] = "y"
    opened = open_onnx(saved(model, tmp_path / "m.onnx"), {})
    constants = [node for node in opened.model.graph if node.op_type == "Constant"]
    assert constants and all(list(node.attributes) == ["value"] for node in constants)


def test_no_dimensions_are_integers(tmp_path: Path) -> None:
    """The part of a shape that begins behind its end has no element that would say so."""
    g = Graph()
    y = g.add("Shape", "x", start=2, end=1)
    model = g.model({"x": (TensorProto.FLOAT, [2, 3, 4])}, {"y": (y, [0])})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    model.graph.node.pop()
    model.graph.node[-1].output[0] = "y"
    opened = open_onnx(saved(model, tmp_path / "m.onnx"), {})
    (constant,) = (node for node in opened.model.graph if node.op_type == "Constant")
    assert constant.attributes["value"].value.numpy().dtype == np.int64


def test_a_shape_in_a_list_of_one(tmp_path: Path) -> None:
    opened = open_onnx(write("resnet", tmp_path / "m.onnx"), {"input.1": [[2, 3, 32, 32]]})
    assert opened.model.graph.outputs[0].shape == ir.Shape([2, 10])


def test_shapes_that_the_file_states_are_forgotten(tmp_path: Path) -> None:
    """They were inferred by the exporter, for the batch that it had."""
    model = MODELS["resnet"]()
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    for node in model.graph.node[:3]:
        model.graph.value_info.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, [1, 16, 16, 16]))
    opened = open_onnx(saved(model, tmp_path / "m.onnx"), {"input.1": [2, 3, 32, 32]})
    assert opened.model.graph.outputs[0].shape == ir.Shape([2, 10])
    assert next(node.outputs[0].shape for node in opened.model.graph) == ir.Shape([2, 16, 16, 16])


def one_node(op: str, domain: str = "", kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    node = helper.make_node(op, ["x"], ["y"], domain=domain, name=f"my_{op}")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", kind, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.INT64 if op == "NonZero" else kind, ["a", "b"])],
    )
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (
            lambda: one_node("Relu", "my.domain"),
            "E1154",
            "my.domain::Relu, operator set 1, 1 nodes (my_Relu): is of the domain",
        ),
        (
            lambda: one_node("NonZero"),
            "E1154",
            "NonZero, operator set 17, 1 nodes (my_NonZero): gives a result whose shape depends",
        ),
        (
            lambda: one_node("Det"),
            "E1154",
            "Det, operator set 17, 1 nodes (my_Det): has no lowering to TVM; write it as",
        ),
        (lambda: one_node("SequenceConstruct"), "E1154", "SequenceConstruct"),
        (lambda: one_node("Identity", kind=TensorProto.FLOAT8E4M3FN), "E1158", "x is FLOAT8E4M3FN"),
        (lambda: one_node("Identity", kind=TensorProto.INT4), "E1158", "x is INT4"),
        (lambda: one_node("Identity", kind=TensorProto.STRING), "E1158", "x is STRING"),
    ],
)
def test_what_cannot_be_lowered(make: Callable[[], onnx.ModelProto], code: str, words: str, tmp_path: Path) -> None:
    model = make()
    if "SequenceConstruct" in words:
        kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
        model.graph.output[0].type.CopyFrom(kind)
    with pytest.raises(UnsupportedError) as caught:
        open_onnx(saved(model, tmp_path / "m.onnx"), {})
    assert caught.value.code == code and any(words in line for line in caught.value.details), caught.value.details


def test_all_obstacles_at_once(tmp_path: Path) -> None:
    model = vit()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    values = [node.output[0] for node in model.graph.node[-4:-1]]
    for number, (op, domain) in enumerate([("FusedConv", "com.microsoft"), ("Det", ""), ("Det", "")]):
        name = f"extra{number}"
        model.graph.node.append(helper.make_node(op, [values[number]], [name], domain=domain, name=name))
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["a"]))
    with pytest.raises(UnsupportedError, match="2 kinds of operators") as caught:
        open_onnx(saved(model, tmp_path / "m.onnx"), SHAPES["vit"])
    assert [[line.split(",")[0], line.split(", ")[2].split(" ")[0]] for line in caught.value.details] == [
        ["Det", "2"],
        ["com.microsoft::FusedConv", "1"],
    ]


def test_functions_are_inlined(tmp_path: Path) -> None:
    """A model-local function of a foreign domain is made of standard operators."""
    model = one_node("Twice", "my.domain")
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("my.domain", "Twice", ["a"], ["b"], body, opsets))
    opened = open_onnx(saved(model, tmp_path / "m.onnx"), {})
    assert opened.operators == {"Add": 1}


def test_functions_that_call_each_other(tmp_path: Path) -> None:
    model = one_node("F", "my.domain")
    opsets = [helper.make_opsetid("my.domain", 1)]
    for name, other in (("F", "G"), ("G", "F")):
        body = [helper.make_node(other, ["a"], ["b"], domain="my.domain")]
        model.functions.append(helper.make_function("my.domain", name, ["a"], ["b"], body, opsets))
    with pytest.raises(InputError) as caught:
        open_onnx(saved(model, tmp_path / "m.onnx"), {})
    assert caught.value.code == "E1152"


def test_constants_fold_even_through_operators_that_are_not_lowered(tmp_path: Path) -> None:
    """Exporters leave NonZero of constants behind."""
    g = Graph()
    ones = g.add("NonZero", g.const(np.array([1, 0, 1], np.int64)))
    index = g.add("Squeeze", ones, g.const(np.array([0])))
    y = g.add("Gather", "x", index, axis=0)
    model = g.model({"x": (TensorProto.FLOAT, [3, 4])}, {"y": (y, [2, 4])})
    assert open_onnx(saved(model, tmp_path / "m.onnx"), {}).operators.keys() <= {"Gather", "Identity"}
