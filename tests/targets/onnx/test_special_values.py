"""NaN, infinities, signed zeros and large and small numbers through every operator, against ONNX Runtime.

Where ONNX Runtime depends on the order of elements (the largest of numbers and NaN), NumPy says what is right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.onnx_models import reference
from tests.targets.onnx.operators import Compiled, Node, graph

Array = NDArray[Any]
NAN, INF = np.nan, np.inf
VALUES = np.array(
    [NAN, INF, -INF, 0.0, -0.0, 1, -1, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 3, -3, 1e-30, -1e-30, 0.1, -0.1, 7, -7,
     1e4, -1e4, 1e30, -1e30, 3.4028235e38, -3.4028235e38, 88.5, -88.5, 104, -104, 1e9, -1e9, 5e9],
    np.float32,
)  # fmt: skip
ROWS = np.array(
    [[1, NAN, 3, 2], [NAN, 1, INF, 2], [INF, -INF, 1, 0], [-INF] * 4, [INF, INF, 1, 2], [-0.0, 0.0, -0.0, 0.0],
     [NAN] * 4, [3e38] * 4, [1, 2, NAN, NAN], [2, 2, 1, 2]],
    np.float32,
)  # fmt: skip
PLAIN = """
Abs Acos Acosh Asin Asinh Atan Atanh Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsInf
IsNaN LeakyRelu Log Mish Neg Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Tan Tanh
ThresholdedRelu
"""
UNARY: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in PLAIN.split()),
    ("Celu", {"alpha": 2.0}), ("Elu", {"alpha": 2.0}), ("Gelu", {"approximate": "tanh"}),
    ("HardSigmoid", {"alpha": 0.5, "beta": 0.6}), ("IsInf", {"detect_negative": 0}), ("IsInf", {"detect_positive": 0}),
    ("LeakyRelu", {"alpha": 0.1}), ("Selu", {"alpha": 2.0, "gamma": 3.0}), ("Shrink", {"lambd": 1.5, "bias": 1.5}),
    ("ThresholdedRelu", {"alpha": 2.0}),
]  # fmt: skip
# ONNX Runtime computes them as sums, in which the sign of a zero is lost; the standard leaves it open
ZEROS_OPEN = ("Selu", "Celu", "Where")
BINARY = ("Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mul")
BINARY += ("PRelu", "Pow", "Sub", "Sum")


def same(actual: Array, expected: Array, name: str) -> None:
    """NaN, infinities and the signs of zeros alike; numbers within what float32 functions are off by."""
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, name
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(actual, expected, err_msg=name)
        return
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-37, err_msg=name)
    if not name.startswith(ZEROS_OPEN):
        zeros = (actual == 0) & (expected == 0)
        np.testing.assert_array_equal(np.signbit(actual[zeros]), np.signbit(expected[zeros]), err_msg=name)


def compare(nodes: list[Node], feeds: dict[str, Array], folder: Path, constants: dict[str, Any] | None = None) -> None:
    outputs = [name for _, _, made, _ in nodes for name in made]
    model = graph(nodes, {name: (array.dtype, array.shape) for name, array in feeds.items()}, outputs, constants, 20)
    actual, expected = Compiled(model, folder)(feeds), reference(model, feeds)
    for name in outputs:
        same(actual[name], expected[name], name)


def test_functions_of_one_element(tmp_path: Path) -> None:
    nodes: list[Node] = [(op, ["x"], [f"{op}{i}"], attributes) for i, (op, attributes) in enumerate(UNARY)]
    compare(nodes, {"x": VALUES}, tmp_path)


def test_functions_of_two_elements(tmp_path: Path) -> None:
    few = np.array([NAN, INF, -INF, 0.0, -0.0, 1, -1, 0.5, -2, 3, 3.4028235e38, -3.4028235e38, -5.5], np.float32)
    a, b = np.repeat(few, few.size), np.tile(few, few.size)
    nodes: list[Node] = [(op, ["a", "b"], [op], {}) for op in BINARY]
    nodes += [("Mod", ["a", "b"], ["Mod"], {"fmod": 1}), ("Max", ["a", "b", "c"], ["Max of three"], {})]
    nodes += [
        ("IsNaN", ["b"], ["c_is"], {}),
        ("Where", ["c_is", "a", "b"], ["Where"], {}),
        ("Min", ["a"], ["Min1"], {}),
    ]
    compare(nodes, {"a": a, "b": b, "c": np.roll(a, 5)}, tmp_path)


def test_bounds(tmp_path: Path) -> None:
    """A bound that is NaN is none in ONNX Runtime; an element that is NaN stays so."""
    pairs = [(-1, 1), (NAN, 1), (-1, NAN), (1, -1), (-INF, INF)]
    constants = {
        f"{side}{i}": np.float32(pair[j]) for i, pair in enumerate(pairs) for j, side in enumerate(("lo", "hi"))
    }
    nodes: list[Node] = [("Clip", ["x", f"lo{i}", f"hi{i}"], [f"Clip{i}"], {}) for i in range(len(pairs))]
    nodes += [("Clip", ["x", "", "hi0"], ["Clip above"], {}), ("Clip", ["x", "lo0"], ["Clip below"], {})]
    compare(nodes, {"x": VALUES}, tmp_path, constants)


def test_reductions_and_rows(tmp_path: Path) -> None:
    names = [
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMean",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
    ]
    nodes: list[Node] = [(name, ["x", "axes"], [name], {}) for name in names]
    nodes += [(op, ["x"], [f"{op}{axis}"], {"axis": axis}) for op in ("Softmax", "LogSoftmax") for axis in (0, 1)]
    nodes += [("CumSum", ["x", "axis"], ["CumSum"], {})]
    compare(nodes, {"x": ROWS}, tmp_path, {"axes": np.array([1]), "axis": np.int64(1)})


def test_the_largest_of_numbers_and_nan_is_nan(tmp_path: Path) -> None:
    """And its place is that of the first one; as NumPy has it, whatever the order."""
    nodes: list[Node] = [
        ("ReduceMax", ["x", "axes"], ["ReduceMax"], {"keepdims": 0}),
        ("ReduceMin", ["x", "axes"], ["ReduceMin"], {"keepdims": 0}),
        ("ArgMax", ["x"], ["ArgMax"], {"axis": 1, "keepdims": 0}),
        ("ArgMin", ["x"], ["ArgMin"], {"axis": 1, "keepdims": 0}),
        ("ArgMax", ["x"], ["last"], {"axis": 1, "keepdims": 0, "select_last_index": 1}),
        ("Reshape", ["x", "shape"], ["image"], {}),
        ("MaxPool", ["image"], ["pool"], {"kernel_shape": [1, 4], "strides": [1, 4]}),
        ("MaxPool", ["image"], ["placed", "places"], {"kernel_shape": [1, 4], "strides": [1, 4]}),
        ("GlobalMaxPool", ["image"], ["global"], {}),
    ]
    outputs = [name for _, _, made, _ in nodes for name in made]
    model = graph(nodes, {"x": ("f4", ROWS.shape)}, outputs, {"axes": np.array([1]), "shape": np.array([1, 1, 10, 4])})
    actual = Compiled(model, tmp_path)({"x": ROWS})
    first = np.argmax(ROWS, axis=1)
    wanted = {
        "ReduceMax": ROWS.max(1), "ReduceMin": ROWS.min(1), "ArgMax": first, "ArgMin": np.argmin(ROWS, axis=1),
        "last": 3 - np.argmax(ROWS[:, ::-1], axis=1), "pool": ROWS.max(1).reshape(1, 1, 10, 1),
        "placed": ROWS.max(1).reshape(1, 1, 10, 1), "places": (first + 4 * np.arange(10)).reshape(1, 1, 10, 1),
        "global": ROWS.max().reshape(1, 1, 1, 1),
    }  # fmt: skip
    for name, array in wanted.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


def test_nan_after_convolutions(tmp_path: Path) -> None:
    """What follows a convolution is computed in its kernel."""
    x = np.random.default_rng(0).standard_normal((1, 3, 9, 9)).astype(np.float32)
    x[0, 1, 4, 4] = NAN
    constants = {"w": np.random.default_rng(1).standard_normal((8, 3, 3, 3)).astype(np.float32)}
    constants |= {"lo": np.float32(0), "hi": np.float32(6)}
    nodes: list[Node] = [
        ("Conv", ["x", "w"], ["a"], {}), ("Relu", ["a"], ["Relu"], {}),
        ("Conv", ["x", "w"], ["b"], {"pads": [1, 1, 1, 1]}), ("Clip", ["b", "lo", "hi"], ["Clip"], {}),
        ("Conv", ["x", "w"], ["c"], {"strides": [2, 2]}), ("Max", ["c", "lo"], ["Max"], {}),
    ]  # fmt: skip
    model = graph(nodes, {"x": ("f4", x.shape)}, ["Relu", "Clip", "Max"], constants)
    actual, expected = Compiled(model, tmp_path)({"x": x}), reference(model, {"x": x})
    for name, array in expected.items():
        assert np.isnan(array).any()
        np.testing.assert_allclose(actual[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_that_integers_do_not_hold(dtype: str, tmp_path: Path) -> None:
    """ONNX leaves them open; int32 and int64 are as ONNX Runtime has them on x86."""
    x = np.array([NAN, INF, -INF, 1e30, -1e30, 3e9, -3e9, 255.5, -0.9, 1e19, -1e19, 2147483648], dtype)
    nodes: list[Node] = [("Cast", ["x"], [kind], {"to": number}) for kind, number in (("int32", 6), ("int64", 7))]
    actual = Compiled(graph(nodes, {"x": (dtype, x.shape)}, ["int32", "int64"]), tmp_path)({"x": x})
    for kind in ("int32", "int64"):
        lowest, limit = np.iinfo(kind).min, 2.0 ** (np.iinfo(kind).bits - 1)
        inside = (x < limit) & (x >= -limit)
        expected = np.where(inside, np.trunc(np.where(inside, x, 0)).astype(kind), lowest)
        np.testing.assert_array_equal(actual[kind], expected, err_msg=kind)


def test_floats_of_64_bits(tmp_path: Path) -> None:
    """Numbers that float32 has for infinite are not, and functions are as precise as their type."""
    x = np.array([NAN, INF, -INF, 0.0, -0.0, 1e-300, -1e-300, 0.1, -0.3, 0.49, 0.51, 2, -20, 1e300, 3.5e38], np.float64)
    nodes: list[Node] = [
        ("IsInf", ["x"], ["up"], {"detect_negative": 0}), ("IsInf", ["x"], ["down"], {"detect_positive": 0}),
        ("Tanh", ["x"], ["tanh"], {}), ("Atanh", ["x"], ["atanh"], {}), ("Elu", ["x"], ["elu"], {}),
        ("Max", ["x", "one"], ["max"], {}),
    ]  # fmt: skip
    names = [made[0] for _, _, made, _ in nodes]
    actual = Compiled(graph(nodes, {"x": ("f8", x.shape)}, names, {"one": np.float64(1)}), tmp_path)({"x": x})
    with np.errstate(all="ignore"):
        wanted = {
            "up": np.isposinf(x), "down": np.isneginf(x), "tanh": np.tanh(x), "atanh": np.arctanh(x),
            "elu": np.where(x < 0, np.expm1(x), x), "max": np.maximum(x, 1),
        }  # fmt: skip
    for name, array in wanted.items():
        np.testing.assert_allclose(actual[name], array, rtol=1e-14, atol=1e-15, err_msg=name)
    for name in ("tanh", "atanh"):
        np.testing.assert_array_equal(np.signbit(actual[name][3:7]), np.signbit(x[3:7]))
