"""Operators written out with places from lengths, and those added to the importer: against their definitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from xamc.errors import UnsupportedError
from xamc.passes.lowering.index_bounds import bound_indices

RNG = np.random.default_rng(0)
Arrays = Mapping[str, Any]


def one_node(
    op: str, feeds: Arrays, opset: int, result: int, constants: Arrays | None = None, **attributes: Any
) -> onnx.ModelProto:
    node = helper.make_node(op, [*feeds, *(constants or {})], ["y"], name=op, **attributes)
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in feeds.items()}
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(name, kinds[name], array.shape) for name, array in feeds.items()],
        [helper.make_tensor_value_info("y", result, [f"d{axis}" for axis in range(next(iter(feeds.values())).ndim)])],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def ours(model: onnx.ModelProto, feeds: Arrays, folder: Path) -> Any:
    onnx.save(model, folder / "m.onnx")
    opened = open_onnx(folder / "m.onnx", {})
    bound_indices(opened.model)
    (actual,) = run(build(ir.to_proto(opened.model), len(feeds), folder), feeds)
    return actual


X = RNG.standard_normal((4, 5, 3)).astype(np.float32)
CACHE = RNG.standard_normal((3, 2, 8, 4)).astype(np.float32)
UPDATE = RNG.standard_normal((3, 2, 3, 4)).astype(np.float32)
JUDGED: dict[str, tuple[str, Arrays, int, dict[str, Any]]] = {
    "reversed, time first": ("ReverseSequence", {"x": X, "n": np.array([4, 1, 2, 3, 1])}, 13, {}),
    "reversed, batch first": (
        "ReverseSequence", {"x": X, "n": np.array([5, 0, 2, 1])}, 13, {"batch_axis": 0, "time_axis": 1}
    ),
    "scattered": ("TensorScatter", {"c": CACHE, "u": UPDATE, "i": np.array([0, 5, 2])}, 24, {}),
    "scattered from the start": ("TensorScatter", {"c": CACHE, "u": UPDATE}, 24, {}),
    "scattered in a circle": (
        "TensorScatter", {"c": CACHE, "u": UPDATE, "i": np.array([6, 7, 2])}, 24, {"mode": "circular"}
    ),
    "scattered along another axis": (
        "TensorScatter", {"c": CACHE, "u": CACHE[:, :1], "i": np.array([1, 0, 1])}, 24, {"axis": 1}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", JUDGED)
def test_against_onnxruntime(name: str, tmp_path: Path) -> None:
    op, feeds, opset, attributes = JUDGED[name]
    model = one_node(op, feeds, opset, TensorProto.FLOAT, **attributes)
    if "circle" in name or "time" in name:
        actual = ours(model, feeds, tmp_path)
    else:  # the operators that are left have tests of their own, and code takes a second to make
        onnx.save(model, tmp_path / "m.onnx")
        opened = open_onnx(tmp_path / "m.onnx", {})
        assert op not in opened.operators
        actual = reference(ir.to_proto(opened.model), dict(feeds))["y"]
    np.testing.assert_array_equal(actual, reference(model, dict(feeds))["y"], strict=True)


def _shifted(x: Any, y: Any, left: bool) -> Any:
    """By arbitrary precision, cut off to the type's bits."""
    bits, dtype = 8 * x.itemsize, x.dtype
    results = []
    for value, count in zip(x.tolist(), y.tolist(), strict=True):
        count = count if 0 <= count < bits else 2 * bits
        results.append(((value << count) if left else (value >> count)) & (2**bits - 1))
    return np.array(results, np.dtype(f"u{x.itemsize}")).view(dtype)


INTS = np.array([-128, -1, 0, 1, 5, 127, -7, 100], np.int8)
COUNTS = np.array([1, 7, 3, 8, -1, 2, 100, 0], np.int8)
FLOATS = np.array([7.5, -7.5, 7.5, -7.5, 6, -6, 0.0, 1, 3], np.float32)
DIVISORS = np.array([2, 2, -2, -2, -3, 3, -3, np.inf, 0.3], np.float32)
TABLE = RNG.integers(1, 4, (3, 4)).astype(np.int32)
DEFINED: dict[str, tuple[Callable[[], onnx.ModelProto], Arrays, Any]] = {}
for left, direction in ((True, "LEFT"), (False, "RIGHT")):
    for given in ({"x": INTS, "n": COUNTS}, {"x": INTS.view(np.uint8), "n": COUNTS.view(np.uint8)}):
        kind = TensorProto.INT8 if given["x"].dtype == np.int8 else TensorProto.UINT8
        DEFINED[f"shift {direction} of {given['x'].dtype}"] = (
            lambda given=given, kind=kind, direction=direction: one_node(  # type: ignore[misc]
                "BitShift", given, 28 if kind == TensorProto.INT8 else 11, kind, direction=direction
            ),
            given,
            _shifted(given["x"], given["n"], left),
        )
DEFINED |= {
    "remainder of floats": (
        lambda: one_node("Mod", {"x": FLOATS, "d": DIVISORS}, 13, TensorProto.FLOAT),
        {"x": FLOATS, "d": DIVISORS},
        np.mod(FLOATS, DIVISORS),
    ),
    "bits of floats": (
        lambda: one_node("BitCast", {"x": FLOATS}, 26, TensorProto.INT32, to=TensorProto.INT32),
        {"x": FLOATS},
        FLOATS.view(np.int32),
    ),
    "products": (
        lambda: one_node("CumProd", {"x": TABLE}, 26, TensorProto.INT32, {"axis": np.array(-1)}),
        {"x": TABLE},
        np.cumprod(TABLE, axis=1, dtype=np.int32),
    ),
    "products before, backwards": (
        lambda: one_node("CumProd", {"x": TABLE}, 26, TensorProto.INT32, {"axis": np.array(0)}, exclusive=1, reverse=1),
        {"x": TABLE},
        np.concatenate([np.cumprod(TABLE[:0:-1], axis=0)[::-1], np.ones((1, 4))]).astype(np.int32),
    ),
}


@pytest.mark.parametrize("name", DEFINED)
def test_against_numpy(name: str, tmp_path: Path) -> None:
    make, feeds, expected = DEFINED[name]
    actual = ours(make(), feeds, tmp_path)
    assert actual.dtype == expected.dtype
    if actual.dtype.kind == "f":
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)
    else:
        np.testing.assert_array_equal(actual, expected)


def test_the_bits_of_a_float16_are_refused(tmp_path: Path) -> None:
    """It is computed in float32."""
    model = one_node("BitCast", {"x": X.astype(np.float16)}, 26, TensorProto.INT16, to=TensorProto.INT16)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError) as caught:
        open_onnx(tmp_path / "m.onnx", {})
    assert caught.value.code == "E1158" and "BitCast (BitCast) reads the bits" in caught.value.details[0]


def test_parts_of_constants_are_constants(tmp_path: Path) -> None:
    """A shape that was split, and joined in another order, is known before the run."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Split", ["shape"], ["a", "b", "c"], num_outputs=3),
        helper.make_node("Concat", ["c", "a", "b"], ["other"], axis=0),
        helper.make_node("Reshape", ["x", "other"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 5, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b", "c"])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    opened = open_onnx(tmp_path / "m.onnx", {})
    assert opened.model.graph.outputs[0].shape == ir.Shape([3, 4, 5]) and "Split" not in opened.operators
