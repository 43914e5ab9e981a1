"""Largest and smallest elements, and their places, where there are infinities: against NumPy, for every type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.onnx_models import reference
from tests.targets.onnx.operators import build, run
from xamc.compiler.frontends.onnx.model import open_onnx
from xamc.ir.tolerances import tolerance
from xamc.verify.metrics import relative_error

KINDS = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "int8": TensorProto.INT8,
    "bool": TensorProto.BOOL,
}
POOLS: dict[int, dict[str, Any]] = {
    rank: {"kernel_shape": [3] * rank, "strides": [2] * rank, "dilations": [1] * (rank - 1) + [2], "pads": pads}
    for rank, pads in ((1, [2, 1]), (3, [1, 0, 1, 1, 1, 1]))
}


def _rows(dtype: str) -> np.ndarray:
    """Nothing but -inf, nothing but inf, one of each among numbers, equal ones; [5, 4, 3]."""
    rows = np.random.default_rng(0).integers(-3, 3, (5, 12)).astype(dtype)
    rows[0], rows[1], rows[2, 1:], rows[3, 3] = -np.inf, np.inf, -np.inf, np.inf
    return rows.reshape(5, 4, 3)


def _model(
    nodes: dict[str, tuple[str, list[str], dict[str, Any]]], dtype: str, shape: tuple[int, ...] = (5, 4, 3)
) -> onnx.ModelProto:
    """One node per output, all of `x`."""
    tensors = [numpy_helper.from_array(np.array([1, 2]), "axes"), numpy_helper.from_array(np.array([0]), "first")]
    graph = helper.make_graph(
        [helper.make_node(op, inputs, [name], **attributes) for name, (op, inputs, attributes) in nodes.items()],
        "g",
        [helper.make_tensor_value_info("x", KINDS[dtype], shape)],
        [onnx.ValueInfoProto(name=name) for name in nodes],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_reductions_of_infinities(dtype: str, tmp_path: Path) -> None:
    nodes: dict[str, tuple[str, list[str], dict[str, Any]]] = {
        "max": ("ReduceMax", ["x", "axes"], {"keepdims": 1}),
        "max first": ("ReduceMax", ["x", "first"], {"keepdims": 0}),
        "max all": ("ReduceMax", ["x"], {"keepdims": 0}),
        "min": ("ReduceMin", ["x", "axes"], {"keepdims": 0}),
        "argmax": ("ArgMax", ["x"], {"axis": 1, "keepdims": 0}),
        "argmax last": ("ArgMax", ["x"], {"axis": 2, "select_last_index": 1}),
        "argmin": ("ArgMin", ["x"], {"axis": 0}),
        "global": ("GlobalMaxPool", ["x"], {}),
        "pool": ("MaxPool", ["x"], POOLS[1]),
    }
    x = _rows(dtype)
    padded = np.pad(x, ((0, 0), (0, 0), (2, 1)), constant_values=-np.inf)
    expected = {
        "max": x.max((1, 2), keepdims=True),
        "max first": x.max(0),
        "max all": x.max(),
        "min": x.min((1, 2)),
        "argmax": x.argmax(1),
        "argmax last": 2 - x[..., ::-1].argmax(2)[..., None],
        "argmin": x.argmin(0)[None],
        "global": x.max(2, keepdims=True),
        "pool": np.maximum.reduce([padded[..., start : start + 1] for start in (0, 2, 4)]),
    }
    for name, actual in zip(nodes, run(build(_model(nodes, dtype), 1, tmp_path), {"x": x}), strict=True):
        np.testing.assert_array_equal(actual, expected[name], err_msg=name, strict=True)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_reductions_of_nothing(dtype: str, tmp_path: Path) -> None:
    """What a reduction begins with, in every element, though no element is there to begin it with."""
    of_floats = {"ReduceLogSum": -np.inf, "ReduceLogSumExp": -np.inf, "ReduceL2": 0}
    expected: dict[str, Any] = {"ReduceSum": 0, "ReduceProd": 1, "ReduceL1": 0, "ReduceSumSquare": 0}
    if dtype == "float32":
        expected |= of_floats | {"ReduceMax": -np.inf, "ReduceMin": np.inf}
    else:
        expected = {"ReduceMax": -128, "ReduceMin": 127}
    nodes: dict[str, tuple[str, list[str], dict[str, Any]]] = {
        op: (op, ["x", "axes"], {"keepdims": index % 2}) for index, op in enumerate(expected)
    }
    onnx.save(_model(nodes, dtype, (3, 0, 4)), tmp_path / "m.onnx")
    opened = open_onnx(tmp_path / "m.onnx", {})
    library = build(ir.to_proto(opened.model), 1, tmp_path)
    results = run(library, {"x": np.zeros((3, 0, 4), dtype)})
    for (op, value), actual, keep in zip(expected.items(), results, [False, True] * 5):
        wanted = np.full((3, 1, 1) if keep else (3,), value, dtype)
        np.testing.assert_array_equal(actual, wanted, err_msg=op, strict=True)


def test_reductions_of_booleans(tmp_path: Path) -> None:
    nodes: dict[str, tuple[str, list[str], dict[str, Any]]] = {
        op: (op, ["x", "axes"], {"keepdims": 0}) for op in ("ReduceMax", "ReduceMin")
    }
    x = np.random.default_rng(0).random((5, 4, 3)) < 0.5
    x[0], x[1] = False, True
    largest, least = run(build(_model(nodes, "bool"), 1, tmp_path), {"x": x})
    np.testing.assert_array_equal(largest, x.any((1, 2)), strict=True)
    np.testing.assert_array_equal(least, x.all((1, 2)), strict=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softplus_of_small_powers(dtype: str, tmp_path: Path) -> None:
    """log(1 + e^x) where 1 + e^x is 1, as precise as elsewhere, and no overflow where e^x is infinite."""
    x = np.concatenate([np.linspace(-80, 80, 1601), [-1000, 1000, -0.0]]).astype(dtype)
    graph = helper.make_graph(
        [helper.make_node("Softplus", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", KINDS[dtype], x.shape)],
        [helper.make_tensor_value_info("y", KINDS[dtype], x.shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "m.onnx")
    opened = open_onnx(tmp_path / "m.onnx", {})
    (actual,) = run(build(ir.to_proto(opened.model), 1, tmp_path), {"x": x})
    wanted = np.logaddexp(0, x.astype(np.longdouble)).astype(dtype)
    np.testing.assert_allclose(actual, wanted, rtol=3 * tolerance("kernel_exp") if dtype == "float32" else 1e-14)


def test_pooling_of_three_dimensions(tmp_path: Path) -> None:
    """Strides, dilations and padding of every side, -inf among the values, against ONNX Runtime's finite ones."""
    x = np.random.default_rng(1).standard_normal((2, 3, 5, 6, 7)).astype(np.float32)
    node = helper.make_node("MaxPool", ["x"], ["y"], **POOLS[3])
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", 1, x.shape)], [onnx.ValueInfoProto(name="y")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    library = build(model, 1, tmp_path)
    np.testing.assert_array_equal(run(library, {"x": x})[0], reference(model, {"x": x})["y"], strict=True)
    x[0, 1] = -np.inf
    expected = reference(model, {"x": np.where(np.isinf(x), np.float32(-1e30), x)})["y"]
    expected[expected == np.float32(-1e30)] = -np.inf
    np.testing.assert_array_equal(run(library, {"x": x})[0], expected, strict=True)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("opset", [13, 18])
def test_logarithms_of_sums_of_powers(opset: int, keepdims: int, tmp_path: Path) -> None:
    """Of nothing but -inf it is -inf, with an inf among them inf; numbers don't overflow."""
    x = _rows("float32")
    x[4] += 500
    axes = {"axes": [1, 2]} if opset == 13 else {}
    node = helper.make_node("ReduceLogSumExp", ["x"] if axes else ["x", "axes"], ["y"], keepdims=keepdims, **axes)
    tensors = [] if axes else [numpy_helper.from_array(np.array([1, 2]), "axes")]
    value = helper.make_tensor_value_info("x", 1, x.shape)
    graph = helper.make_graph([node], "g", [value], [onnx.ValueInfoProto(name="y")], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(model, strict_mode=True), tmp_path / "m.onnx")
    opened = open_onnx(tmp_path / "m.onnx", {})
    (actual,) = run(build(ir.to_proto(opened.model), 1, tmp_path), {"x": x})
    expected = np.logaddexp.reduce(x.reshape(5, 12).astype(np.float64), axis=1).reshape((5, 1, 1) if keepdims else 5)
    assert actual.shape == expected.shape and not np.isfinite(expected[[0, 1, 3]]).any()
    np.testing.assert_allclose(actual, expected, rtol=tolerance("graph_fp32"))


def test_attention_of_a_row_that_may_see_nothing_is_zero(tmp_path: Path) -> None:
    """And one whose scores are only as low as numbers get is not: they are equal, and so are its weights."""
    x = np.random.default_rng(2).standard_normal((1, 2, 3, 4)).astype(np.float32)
    mask = np.zeros((3, 3), np.float32)
    mask[1], mask[2] = -np.inf, np.finfo(np.float32).min
    node = helper.make_node("Attention", ["x", "x", "x", "mask"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", 1, x.shape), helper.make_tensor_value_info("mask", 1, mask.shape)],
        [helper.make_tensor_value_info("y", 1, x.shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), tmp_path / "m.onnx")
    opened = open_onnx(tmp_path / "m.onnx", {})
    (actual,) = run(build(ir.to_proto(opened.model), 2, tmp_path), {"x": x, "mask": mask})
    scores = x[0] @ x[0].transpose(0, 2, 1) / 2
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    weights[:, 1], weights[:, 2] = 0, 1 / 3
    assert relative_error(actual[0], weights @ x[0]) <= tolerance("graph_fp32") and not actual[0, :, 1].any()
