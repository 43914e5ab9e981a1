"""Operators through TVM's importer and code generator, against ONNX Runtime; and what is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes.common import ShapeInferencePass

from tests.onnx_models import Graph, reference
from tests.targets.onnx.operators import Compiled, build, graph, run
from xamc.errors import UnsupportedError
from xamc.ir.tolerances import tolerance
from xamc.passes.lowering.index_bounds import bound_indices
from xamc.targets.onnx.names import LIBRARY
from xamc.verify.metrics import relative_error

Arrays = Mapping[str, NDArray[Any]]
RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((2, 3, 8, 8)).astype(np.float32)
KINDS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}


def one_node(
    op: str, feeds: Arrays, outputs: int = 1, constants: Mapping[str, Any] | None = None, **more: Any
) -> onnx.ModelProto:
    """A graph of one node; the shapes of its outputs are inferred."""
    constants = constants or {}
    names = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, [*feeds, *constants], names, name=f"/my/{op}", **more)
    values = [helper.make_tensor_value_info(n, KINDS[a.dtype.name], a.shape) for n, a in feeds.items()]
    results = [onnx.ValueInfoProto(name=name) for name in names]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph([node], "g", values, results, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


X = {"x": IMAGE}
INTS = {"a": np.array([-7, 7, 5, -5]), "b": np.array([3, -3, 2, 2])}
NODES: dict[str, tuple[onnx.ModelProto, Arrays]] = {
    "argmax": (one_node("ArgMax", X, axis=2), X),
    "topk": (one_node("TopK", X, 2, {"k": np.array([3])}), X),
    "where": (
        one_node("Where", feeds := {"c": np.array([True, False]), "a": np.ones(2, "f4"), "b": np.zeros(2, "f4")}),
        feeds,
    ),
    "average pool, ceiling": (one_node("AveragePool", X, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), X),
    "resize": (
        one_node("Resize", X, constants={"r": np.zeros(0, "f4"), "s": np.array([1, 1, 2, 2], "f4")}, mode="cubic"),
        X,
    ),
    "transposed convolution": (
        one_node("ConvTranspose", X, constants={"w": IMAGE[:, :, :2, :2].reshape(3, 2, 2, 2)}, strides=[2, 2]),
        X,
    ),
    "integer division": (one_node("Div", INTS), INTS),
    "integer remainder": (one_node("Mod", INTS), INTS),
}


@pytest.mark.parametrize("name", NODES)
def test_operators(name: str, tmp_path: Path) -> None:
    model, feeds = NODES[name]
    expected = reference(model, dict(feeds))
    for actual, wanted in zip(run(build(model, len(feeds), tmp_path), feeds), expected.values(), strict=True):
        assert actual.dtype == wanted.dtype
        assert relative_error(actual, wanted) <= tolerance("graph_fp32")


@pytest.mark.parametrize("op", ["Gather", "GatherElements", "GatherND"])
def test_indices_outside_read_no_foreign_memory(op: str, tmp_path: Path) -> None:
    """Without the clamp this is a segmentation fault, or somebody else's data."""
    table = np.arange(5, dtype=np.float32)
    g = Graph()
    index = g.add("Mul", "i", g.const(np.int64(2)))
    if op == "GatherND":
        index = g.add("Reshape", index, g.const(np.array([3, 1])))
    y = g.add(op, g.const(table), index)
    model = ir.from_proto(g.model({"i": (TensorProto.INT64, [3])}, {"y": (y, [3])}))
    ShapeInferencePass()(model)
    bound_indices(model)
    library = build(ir.to_proto(model), 1, tmp_path)
    for given, expected in (([0, 2, -1], [0, 4, 3]), ([10**12, -(10**12), 1], [4, 0, 2])):
        np.testing.assert_array_equal(run(library, {"i": np.array(given)})[0], expected)


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    model, feeds = NODES["argmax"]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        build(model, len(feeds), tmp_path / name)
    assert (tmp_path / "a" / LIBRARY).read_bytes() == (tmp_path / "b" / LIBRARY).read_bytes()


def test_so_does_a_graph_whose_dimensions_vary(tmp_path: Path) -> None:
    """TVM computes sizes in an order of addresses, which differ from one build to the next."""
    g = Graph()
    joined = g.add("Concat", "x", "y", axis=1)
    padded = g.add("Pad", joined, g.const(np.array([1, 2, 3, 4])))
    flat = g.add("Reshape", padded, g.const(np.array([-1])))
    product = g.add("MatMul", joined, "z")
    shapes = {"x": ["a", "b"], "y": ["a", "c"], "z": ["d", "e"]}
    model = g.model({name: (TensorProto.FLOAT, shape) for name, shape in shapes.items()}, {})
    for name in (flat, product):
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    model = onnx.shape_inference.infer_shapes(model)
    libraries, kept = set(), []
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
        build(model, len(shapes), tmp_path / name)
        libraries.add((tmp_path / name / LIBRARY).read_bytes())
        kept.append([bytes(size) for size in range(1, 4000, 7)])  # other addresses the next time
    assert len(libraries) == 1


def test_all_uses_that_the_importer_does_not_have(tmp_path: Path) -> None:
    """Not only the first one, and with the names of the nodes."""
    g = Graph()
    padded = g.add("Pad", "x", "n")
    exact = g.add("Relu", "x")
    power = g.add("Pow", "x", "n")
    model = g.model({"x": (TensorProto.FLOAT, [2, 3, 8, 8]), "n": (TensorProto.INT64, [8])}, {})
    for name in (padded, exact, power):
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    model = onnx.shape_inference.infer_shapes(model)
    with pytest.raises(UnsupportedError) as caught:
        build(model, 2, tmp_path)
    listed = " ".join(caught.value.details)
    assert caught.value.code == "E1473"
    assert "Pad /Pad_" in listed and "Pow /Pow_" in listed and "Relu" not in listed


def test_a_use_that_the_importer_does_not_have(tmp_path: Path) -> None:
    """The message names operator and node, not TVM's words alone."""
    model = one_node("Pad", X | {"n": np.zeros(8, np.int64)})
    with pytest.raises(UnsupportedError, match="Pad /my/Pad can't be lowered") as caught:
        build(model, 2, tmp_path)
    assert caught.value.code == "E1473" and "Pad /my/Pad" in " ".join(caught.value.details)
    assert "reference" in caught.value.fix and not (tmp_path / LIBRARY).exists()


def test_what_the_code_generator_refuses_is_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TVM finds out late; the node is found among the others, and the words are not TVM's alone."""
    from xamc.targets.onnx import schedule

    def legalizations() -> dict[str, Any]:
        def refuse(*_: Any) -> None:
            raise ValueError("Cannot use and / or / not operator to Expr")

        return theirs() | {"relax.tanh": refuse}

    theirs = schedule.legalizations
    monkeypatch.setattr(schedule, "legalizations", legalizations)
    nodes = [("Relu", ["x"], ["r"], {}), ("Tanh", ["r"], ["t"], {}), ("Exp", ["t"], ["y"], {})]
    with pytest.raises(UnsupportedError, match="TVM can't compile Tanh /my/t") as caught:
        Compiled(graph(nodes, {"x": (np.float32, [4])}, ["y"]), tmp_path)
    assert caught.value.code == "E1473" and "frontend.shape" in caught.value.fix
    assert [line.partition(":")[0] for line in caught.value.details] == ["Tanh /my/t"]
