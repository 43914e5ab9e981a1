"""What a graph computes from dimensions that vary: every size against ONNX Runtime, from one compiled graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tvm import tirx

from tests.onnx_models import reference
from tests.targets.onnx.operators import Compiled, Node, graph
from xamc.errors import UnsupportedError
from xamc.targets.onnx.importer.shape_values import Evaluator, ShapeValue, shape_value

RANGE = {"x": [[1, 2, 4], [4, 8, 4]]}
SIZES = [(1, 2), (2, 5), (4, 8)]


def _ints(*values: int) -> Any:
    return np.array(values, np.int64)


TABLE = np.random.default_rng(0).random((1, 16, 4), "f4")
SHAPE: Node = ("Shape", ["x"], ["s"], {})
JOIN: Node = ("Concat", ["part", "rest"], ["target"], {"axis": 0})
RESHAPE: Node = ("Reshape", ["x", "target"], ["y"], {})
# name → nodes, constants
WAYS: dict[str, tuple[list[Node], Mapping[str, Any]]] = {
    "a vector of places": (
        [SHAPE, ("Gather", ["s", "places"], ["part"], {}), JOIN, RESHAPE],
        {"places": _ints(0, 1), "rest": _ints(2, 2)},
    ),
    "a place from the end": (
        [SHAPE, ("Gather", ["s", "places"], ["part"], {}), JOIN, RESHAPE],
        {"places": _ints(-2), "rest": _ints(-1)},
    ),
    "a slice": (
        [SHAPE, ("Slice", ["s", "from", "to"], ["part"], {}), JOIN, RESHAPE],
        {"from": _ints(0), "to": _ints(1), "rest": _ints(-1)},
    ),
    "a part of a shape": ([("Shape", ["x"], ["part"], {"end": 1}), JOIN, RESHAPE], {"rest": _ints(0, 2, 2)}),
    "a split": (
        [SHAPE, ("Split", ["s"], ["b", "n", "c"], {"num_outputs": 3}),
         ("Concat", ["n", "b", "c"], ["target"], {"axis": 0}), RESHAPE],
        {},
    ),
    "products": (
        [SHAPE, ("Slice", ["s", "from", "to"], ["g"], {}), ("Mul", ["g", "two"], ["part"], {}), JOIN,
         ("Expand", ["one", "target"], ["y"], {})],
        {"from": _ints(0), "to": _ints(2), "two": _ints(2, 1), "rest": _ints(3), "one": np.ones((1, 1, 1), np.float32)},
    ),
    "-1 for what is kept": (
        [SHAPE, ("Equal", ["wanted", "none"], ["is"], {}), ("Where", ["is", "s", "wanted"], ["target"], {}),
         ("Expand", ["x", "target"], ["y"], {})],
        {"wanted": _ints(-1, -1, 4), "none": _ints(-1)},
    ),
    "a written shape": (
        [SHAPE, ("ScatterElements", ["s", "place", "rest"], ["target"], {}), ("Expand", ["one", "target"], ["y"], {})],
        {"place": _ints(2), "rest": _ints(3), "one": np.ones((1, 1, 1), np.float32)},
    ),
    "positions": (
        [SHAPE, ("Gather", ["s", "axis"], ["n"], {}), ("Range", ["zero", "n", "step"], ["r"], {}),
         ("Cast", ["r"], ["f"], {"to": 1}), ("Unsqueeze", ["f", "last"], ["column"], {}),
         ("Mul", ["x", "column"], ["y"], {})],
        {"axis": np.int64(1), "zero": np.int64(0), "step": np.int64(1), "last": _ints(1)},
    ),
    "a number of a float": (
        [SHAPE, ("Gather", ["s", "axis"], ["n"], {}), ("Cast", ["n"], ["f"], {"to": 1}), ("Sqrt", ["f"], ["root"], {}),
         ("Div", ["x", "root"], ["y"], {})],
        {"axis": np.int64(1)},
    ),
    "rows of a table": (
        [SHAPE, ("Slice", ["s", "one", "two"], ["n"], {}), ("Slice", ["table", "zero", "n", "one"], ["rows"], {}),
         ("Add", ["x", "rows"], ["y"], {})],
        {"zero": _ints(0), "one": _ints(1), "two": _ints(2), "table": TABLE},
    ),
    "more rows than a table has": (
        [SHAPE, ("Slice", ["s", "one", "two"], ["n"], {}), ("Slice", ["table", "zero", "n", "one"], ["y"], {})],
        {"zero": _ints(0), "one": _ints(1), "two": _ints(2), "table": TABLE[:, :6]},
    ),
    "repeats": (
        [SHAPE, ("Slice", ["s", "zero", "one"], ["b"], {}), ("Concat", ["b", "one", "one"], ["times"], {"axis": 0}),
         ("Tile", ["row", "times"], ["y"], {})],
        {"zero": _ints(0), "one": _ints(1), "row": np.arange(6, dtype=np.float32).reshape(1, 2, 3)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
def test_shapes_that_are_computed(name: str, tmp_path: Path) -> None:
    nodes, constants = WAYS[name]
    model = graph(nodes, {"x": ("f4", ["b", "n", 4])}, ["y"], constants)
    compiled = Compiled(model, tmp_path, RANGE)
    for batch, n in SIZES:
        x = np.random.default_rng(n).standard_normal((batch, n, 4)).astype(np.float32)
        actual, expected = compiled({"x": x})["y"], reference(model, {"x": x})["y"]
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def test_indices_into_an_axis_that_varies(tmp_path: Path) -> None:
    """Of inputs and computed ones, below 0 from the end; outside they read no foreign memory."""
    nodes: list[Node] = [
        ("Gather", ["x", "i"], ["given"], {"axis": 1}), ("Sub", ["i", "one"], ["j"], {}),
        ("Gather", ["x", "j"], ["computed"], {"axis": 1}),
        ("ReduceSum", ["mask", "axes"], ["length"], {"keepdims": 1}), ("Sub", ["length", "one"], ["last"], {}),
        ("GatherND", ["x", "last"], ["pooled"], {"batch_dims": 1}),
    ]  # fmt: skip
    inputs = {"x": ("f4", ["b", "n", 4]), "i": ("i8", [3]), "mask": ("i8", ["b", "n"])}
    model = graph(nodes, inputs, ["given", "computed", "pooled"], {"one": np.int64(1), "axes": _ints(1)})
    compiled = Compiled(model, tmp_path, {**RANGE, "mask": [[1, 2], [4, 8]]})
    for batch, n in SIZES:
        x = np.random.default_rng(n).standard_normal((batch, n, 4)).astype(np.float32)
        feeds = {"x": x, "i": _ints(1 - n, 0, n - 1), "mask": np.tril(np.ones((batch, n), np.int64), n - 2)}
        expected = reference(model, feeds)
        for name, array in compiled(feeds).items():
            np.testing.assert_array_equal(array, expected[name], err_msg=name)
        far = compiled(feeds | {"i": _ints(10**12, -(10**12), 0)})["given"]
        np.testing.assert_array_equal(far, x[:, [n - 1, 0, 0]])


def test_a_shape_that_depends_on_data(tmp_path: Path) -> None:
    nodes: list[Node] = [("TopK", ["x", "k"], ["y", "places"], {"axis": 1})]
    model = graph(nodes, {"x": ("f4", ["b", "n", 4]), "k": ("i8", [1])}, ["y"])
    with pytest.raises(UnsupportedError) as caught:
        Compiled(model, tmp_path, RANGE)
    text = f"{caught.value.message} {caught.value.details}"
    assert caught.value.code in ("E1157", "E1473") and "TopK" in text and "int()" not in text


def test_arithmetic() -> None:
    """Comparisons that no dimension decides are not evaluated."""
    n = tirx.Var("n", "int64")
    evaluator = Evaluator({"n": (2, 8)})
    evaluator.arithmetic.learn([n])

    def result(op: str, *inputs: Any) -> Any:
        made = evaluator.evaluate(op, [shape_value(value) for value in inputs], {}, 18)
        return None if made is None else made[0].values.tolist()

    assert result("Sub", [n, 3], [n, 1]) == [0, 2]
    assert result("Equal", n, -1) is False and result("Less", n, 9) is True and result("Equal", n, 4) is None
    assert n.same_as(result("Min", n, 9)) and n.same_as(result("Max", n, 1)) and result("Min", n, 2) == 2
    assert result("Div", -7, 2) == -3 and result("Mod", -7, 2) == 1 and result("Div", n, 0) is None
    assert n.same_as(result("Div", [n * 4], [4])[0])
    assert evaluator.evaluate("Sqrt", [ShapeValue(np.array([4], object))], {}, 18) is None
