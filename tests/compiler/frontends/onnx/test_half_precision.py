"""Models in float16 and bfloat16: computed in float32, rounded where they cast, and of their own types at the ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.onnx_models import MODELS, SHAPES, feeds, narrowed, reference
from tests.targets.onnx.operators import build, run
from xamc.compiler.frontends.onnx.model import open_onnx
from xamc.compiler.frontends.onnx.weights import lift_weights
from xamc.ir.tolerances import tolerance
from xamc.verify.metrics import relative_error
from xamc.verify.onnx_model_oracle import answers

FLOAT, FLOAT16, BFLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
DTYPES = {FLOAT16: np.float16, BFLOAT16: ml_dtypes.bfloat16}


@pytest.mark.parametrize("half", DTYPES)
@pytest.mark.parametrize("kind", MODELS)
def test_the_graph_is_that_of_float32(kind: str, half: int, tmp_path: Path) -> None:
    """As of the model in ONNX Runtime whose weights alone were rounded; no operator between the ends is in 16 bits."""
    model = narrowed(MODELS[kind](), half)
    onnx.save(model, tmp_path / "m.onnx")
    opened = open_onnx(tmp_path / "m.onnx", SHAPES[kind])
    wide = MODELS[kind]()
    for ours, theirs in zip(wide.graph.initializer, model.graph.initializer, strict=True):
        ours.CopyFrom(numpy_helper.from_array(_wide(numpy_helper.to_array(theirs)), theirs.name))
    given = {
        name: array.astype(DTYPES[half]) if array.dtype == np.float32 else array for name, array in feeds(kind).items()
    }
    ours = given if half == FLOAT16 else {name: _wide(array) for name, array in given.items()}
    expected = reference(wide, {name: _wide(array) for name, array in given.items()})
    actual = answers(opened.model, lift_weights(opened.model), ours)
    bound = tolerance("graph_float16_outputs" if half == FLOAT16 else "graph_fp32")
    for name, array in expected.items():
        assert actual[name].dtype == (np.float16 if half == FLOAT16 else np.float32)
        assert relative_error(actual[name], array) <= bound
    casts = {id(node.outputs[0]) for node in opened.model.graph if node.op_type == "Cast"}
    for node in opened.model.graph:
        assert all(value.dtype != ir.DataType(half) or id(value) in casts for value in node.outputs)


def _wide(array: Any) -> Any:
    return array.astype(np.float32) if array.dtype in DTYPES.values() else array


@pytest.mark.parametrize("half", DTYPES)
def test_casts_round(half: int, tmp_path: Path) -> None:
    """Also those of constants, of float64 and of integers, and CastLike; a cast from the type itself rounds nothing."""
    wide = {"x": np.float32, "d": np.float64, "i": np.int64}
    nodes = [helper.make_node("Cast", [name], [f"{name}.half"], to=half) for name in wide]
    nodes += [
        helper.make_node("CastLike", ["x", "d.half"], ["like"]),
        helper.make_node("Cast", ["i.half"], ["again"], to=half),
        helper.make_node("ConstantOfShape", ["extents"], ["third"], value=_tensor(np.array([1 / 3]), half)),
    ]
    names = [*(f"{name}.half" for name in wide), "like", "again", "third"]
    nodes += [helper.make_node("Cast", [name], [f"{name}.out"], to=FLOAT) for name in names]
    kinds = {"x": FLOAT, "d": TensorProto.DOUBLE, "i": TensorProto.INT64}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, [1000]) for name, kind in kinds.items()],
        [helper.make_tensor_value_info(f"{name}.out", FLOAT, ["n"]) for name in names],
        [numpy_helper.from_array(np.array([3]), "extents")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal(1000) * 10.0 ** rng.integers(-6, 4, 1000)
    numbers[:3] = np.inf, -np.inf, np.nan
    ties = 1 + np.arange(64) / 4096  # every fourth, and every 32nd, number between two of the narrow ones
    numbers[3:67] = ties
    given: dict[str, Any] = {"x": numbers.astype(np.float32), "d": numbers.astype(np.float32).astype(np.float64)}
    given["i"] = rng.integers(-60000, 60000, 1000)
    opened = open_onnx(tmp_path / "m.onnx", {})
    results = dict(zip(names, run(build(ir.to_proto(opened.model), 3, tmp_path), given), strict=True))
    dtype = DTYPES[half]
    expected = {f"{name}.half": array.astype(np.float32).astype(dtype) for name, array in given.items()}
    expected |= {"like": expected["x.half"], "again": expected["i.half"], "third": np.full(3, 1 / 3, dtype)}
    for name, array in expected.items():
        np.testing.assert_array_equal(results[name], array.astype(np.float32), err_msg=name, strict=True)


def _tensor(array: Any, half: int) -> Any:
    return numpy_helper.from_array(array.astype(DTYPES[half]), "value")


def test_a_sum_does_not_overflow(tmp_path: Path) -> None:
    """Between operators nothing is rounded: 60000 + 60000 is no infinity, and half of it a float16 again."""
    nodes = [helper.make_node("Add", ["x", "x"], ["sum"]), helper.make_node("Mul", ["sum", "h"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT16, [4])],
        [helper.make_tensor_value_info("y", FLOAT16, [4])],
        [_named(np.array([0.5]), "h")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), tmp_path / "m.onnx")
    opened = open_onnx(tmp_path / "m.onnx", {})
    x = np.array([60000, -60000, 1, 0.1], np.float16)
    (actual,) = run(build(ir.to_proto(opened.model), 1, tmp_path), {"x": x})
    np.testing.assert_array_equal(actual, x, strict=True)


def _named(array: Any, name: str) -> Any:
    return numpy_helper.from_array(array.astype(np.float16), name)
