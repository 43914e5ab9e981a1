"""Indices stay inside their tables: inputs get a bound, computed ones are clamped, constants are checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto
from onnx_ir.passes.common import ShapeInferencePass

from tests.onnx_models import Graph, reference
from xamc.errors import InputError, UnsupportedError
from xamc.passes.lowering.index_bounds import bound_indices

TABLE = np.arange(20, dtype=np.float32).reshape(5, 4)


def lookup(index: Any, op: str = "Gather", opset: int = 17, **attributes: Any) -> tuple[Any, ir.Model]:
    """`index` builds the indices from the int64[3] input `i`."""
    g = Graph()
    shape = [3, 4]
    indices = index(g)
    if op == "GatherND":
        indices, shape = g.add("Reshape", indices, g.const(np.array([3, 1]))), [3, 4]
    y = g.add(op, g.const(TABLE), indices, **attributes)
    proto = g.model({"i": (TensorProto.INT64, [3])}, {"y": (y, shape)}, opset=opset)
    return proto, ir.from_proto(proto)


def doubled(g: Graph) -> str:
    return g.add("Mul", "i", g.const(np.int64(2)))


def test_an_input_gets_a_bound() -> None:
    _, model = lookup(lambda g: g.add("Squeeze", g.add("Unsqueeze", "i", g.const(np.array([0])))))
    nodes = len(model.graph)
    assert bound_indices(model) == {"i": 5} and len(model.graph) == nodes


@pytest.mark.parametrize("op", ["Gather", "GatherND"])
def test_computed_indices_are_clamped(op: str) -> None:
    proto, model = lookup(doubled, op)
    ShapeInferencePass()(model)
    assert bound_indices(model) == {}
    clamped = ir.to_proto(model)
    inside = {"i": np.array([0, 2, -1])}
    np.testing.assert_array_equal(reference(clamped, inside)["y"], reference(proto, inside)["y"])
    outside = reference(clamped, {"i": np.array([1000, -1000, 1])})["y"]
    np.testing.assert_array_equal(outside, TABLE[[4, 0, 2]])


def test_a_constant_outside() -> None:
    _, model = lookup(lambda g: g.const(np.array([0, 7, 1])))
    with pytest.raises(InputError, match="holds the index 7") as caught:
        bound_indices(model)
    assert caught.value.code == "E1152"


def test_old_operator_sets() -> None:
    _, model = lookup(doubled, opset=11)
    with pytest.raises(UnsupportedError, match="computed indices") as caught:
        bound_indices(model)
    assert caught.value.code == "E1154"


@pytest.mark.parametrize("index", [doubled, lambda g: "i"], ids=["computed", "an input"])
def test_an_axis_that_varies(index: Any) -> None:
    """The bound is the dimension of the call; an input has none that could be checked before."""
    g = Graph()
    y = g.add("Gather", "x", index(g), axis=0)
    proto = g.model({"x": (TensorProto.FLOAT, ["n", 4]), "i": (TensorProto.INT64, [3])}, {"y": (y, [3, 4])})
    model = ir.from_proto(proto)
    assert bound_indices(model, {"n": (1, 5)}) == {}
    for rows in (5, 2):
        x, far = TABLE[:rows], np.array([1000, -1000, 0])
        np.testing.assert_array_equal(reference(ir.to_proto(model), {"x": x, "i": far})["y"], x[[rows - 1, 0, 0]])
