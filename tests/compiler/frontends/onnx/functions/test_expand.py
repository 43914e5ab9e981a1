"""Operators written out as functions: what is left computes the same, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from tests.onnx_models import Graph, reference
from xamc.compiler.frontends.onnx.functions.bodies import BODIES
from xamc.compiler.frontends.onnx.functions.expand import expandable
from xamc.compiler.frontends.onnx.model import open_onnx
from xamc.errors import UnsupportedError
from xamc.ir.tolerances import tolerance
from xamc.passes.lowering.onnx_operators import RANDOM, SUPPORTED
from xamc.verify.metrics import relative_error

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 6)).astype(np.float32)


def _add(g: Graph, op: str, *inputs: str, **attributes: Any) -> str:
    return g.add(op, *inputs, **attributes)


def _quantized(g: Graph, op: str, weights: NDArray[Any], **attributes: Any) -> str:
    """A quantized operator between QuantizeLinear and DequantizeLinear, as exporters write it."""
    scale, zero = g.const(np.float32(0.0437)), g.const(np.uint8(100))
    x = g.add("QuantizeLinear", "x", scale, zero)
    w = (g.const(weights), g.const(np.float32(0.0171)), g.const(np.int8(0)))
    out_scale, out_zero = g.const(np.float32(0.0913)), g.const(np.uint8(90))
    y = g.add(op, x, scale, zero, *w, out_scale, out_zero, **attributes)
    return g.add("DequantizeLinear", y, out_scale, out_zero)


def _integers(g: Graph, op: str, other: str) -> str:
    """An operator of int64 numbers from 0 to 9."""
    numbers = g.add("Cast", g.add("Floor", g.add("Mul", g.add("Abs", "x"), g.const(np.float32(3)))), to=7)
    return g.add("Cast", g.add(op, numbers, other), to=1)


def _one_hot(g: Graph, **attributes: Any) -> str:
    """Of indices from both ends and outside, without the axis that `x` has last."""
    indices = g.add("Cast", g.add("Floor", g.add("Mul", "x", g.const(np.float32(4)))), to=7)
    row = g.add("ReduceMax", indices, axes=[2], keepdims=0)
    scale = g.add("ReduceMean", "x", axes=[0, 1, 2], keepdims=0)
    off_on = g.add("Mul", g.const(np.array([-1, 2], np.float32)), scale)
    return g.add("OneHot", row, g.const(np.array([5])), off_on, **attributes)


# seven bits: ONNX Runtime saturates sums of two products on CPUs without VNNI
INT8 = RNG.integers(-63, 64, (5, 4, 3)).astype(np.int8)
WINDOW = np.hanning(4).astype(np.float32)
CASES: dict[str, tuple[int, Callable[[Graph], str]]] = {
    "Celu": (17, lambda g: _add(g, "Celu", "x", alpha=2.0)),
    "LpNormalization": (17, lambda g: _add(g, "LpNormalization", "x", axis=1, p=1)),
    "LpNormalization of 22": (22, lambda g: _add(g, "LpNormalization", "x", axis=-1)),
    "Pow of a whole number": (15, lambda g: _add(g, "Pow", "x", g.const(np.array([3, 2, 1, 0, 2, 3])))),
    "Pow of whole numbers": (15, lambda g: _integers(g, "Pow", g.const(np.array([3, 2, 1, 0, 2, 3], np.int32)))),
    "Pow with a root": (15, lambda g: _integers(g, "Pow", g.const(np.float32(0.5)))),
    "OneHot": (13, lambda g: _one_hot(g, axis=1)),
    "OneHot of 11": (11, lambda g: _one_hot(g)),
    "RMSNormalization": (23, lambda g: _add(g, "RMSNormalization", "x", g.const(X[0]), axis=1)),
    "EyeLike": (
        17,
        lambda g: _add(
            g,
            "Mul",
            "x",
            _add(
                g,
                "EyeLike",
                g.add(
                    "Squeeze",
                    g.add("Slice", "x", *(g.const(np.array(v)) for v in ([0], [1], [0]))),
                    g.const(np.array([0])),
                ),
                dtype=1,
                k=-2,
            ),
        ),
    ),
    "Mish": (18, lambda g: _add(g, "Mish", "x")),
    "QLinearConv": (13, lambda g: _quantized(g, "QLinearConv", INT8, pads=[1, 1])),
    "QLinearMatMul": (13, lambda g: _quantized(g, "QLinearMatMul", INT8[:, :3, :].reshape(-1)[:30].reshape(6, 5))),
    "RotaryEmbedding": (
        23,
        lambda g: _add(g, "RotaryEmbedding", "x", *[g.const(X[:, :, :1] * f) for f in (1, 2)], num_heads=3),
    ),
    "Attention": (
        23,
        lambda g: _add(g, "Attention", "x", "x", "x", q_num_heads=2, kv_num_heads=2, is_causal=1),
    ),
    "STFT": (
        17,
        lambda g: _add(
            g, "STFT", g.add("Reshape", "x", g.const(np.array([2, 24, 1]))), g.const(np.int64(2)), g.const(WINDOW)
        ),
    ),
    "DFT": (17, lambda g: _add(g, "DFT", g.add("Unsqueeze", "x", g.const(np.array([3]))), axis=2, onesided=1)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_left_computes_the_same(name: str, tmp_path: Path) -> None:
    opset, build = CASES[name]
    g = Graph()
    y = build(g)
    rank = ["a", "b", "c", "d"][: 4 if name.endswith("FT") else 3]
    model = g.model({"x": (TensorProto.FLOAT, list(X.shape))}, {"y": (y, rank)}, opset)
    onnx.save(model, tmp_path / "m.onnx")
    opened = open_onnx(tmp_path / "m.onnx", {})
    assert set(opened.operators) <= SUPPORTED
    opened.model.ir_version = min(opened.model.ir_version, 10)
    expected, actual = reference(model, {"x": X})["y"], reference(ir.to_proto(opened.model), {"x": X})["y"]
    assert relative_error(actual, expected) <= tolerance("graph_fp32")


def test_random_numbers_are_refused(tmp_path: Path) -> None:
    """Bernoulli has a body, but it holds RandomUniformLike: nothing could be proven."""
    g = Graph()
    y = g.add("Bernoulli", "x")
    model = g.model({"x": (TensorProto.FLOAT, [4])}, {"y": (y, [4])}, 17)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError) as caught:
        open_onnx(tmp_path / "m.onnx", {})
    assert caught.value.code == "E1154" and "random numbers" in caught.value.details[0]


def test_a_window_that_is_an_input_is_refused(tmp_path: Path) -> None:
    g = Graph()
    y = g.add("STFT", "x", g.const(np.int64(2)), "window")
    inputs = {"x": (TensorProto.FLOAT, [1, 16, 1]), "window": (TensorProto.FLOAT, [4])}
    model = g.model(inputs, {"y": (y, [1, 7, 3, 2])}, 17)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError) as caught:
        open_onnx(tmp_path / "m.onnx", {})
    assert caught.value.code == "E1154" and "STFT" in caught.value.details[0]


def test_names() -> None:
    """Bodies are of operators that exist; random ones and other domains have none."""
    names = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert BODIES.keys() <= names and names >= RANDOM
    assert expandable("", "Celu", 17) and not expandable("", "Bernoulli", 17)
    assert not expandable("com.microsoft", "Celu", 1) and not expandable("", "Conv", 17)


def test_rows_of_attention_whose_every_score_is_masked_are_zero(tmp_path: Path) -> None:
    """As the operator's text says; the function that ONNX gives for it has NaN there."""
    g = Graph()
    mask = np.tril(np.ones((4, 4), bool))
    mask[1] = False
    y = g.add("Attention", "x", "x", "x", g.const(mask), q_num_heads=2, kv_num_heads=2)
    model = g.model({"x": (TensorProto.FLOAT, list(X.shape))}, {"y": (y, ["a", "b", "c"])}, 23)
    onnx.save(model, tmp_path / "m.onnx")
    opened = open_onnx(tmp_path / "m.onnx", {})
    opened.model.ir_version = min(opened.model.ir_version, 10)
    actual = reference(ir.to_proto(opened.model), {"x": X})["y"]
    heads = X.astype(np.float64).reshape(2, 4, 2, 3).transpose(0, 2, 1, 3)
    scores = np.where(mask, heads @ heads.transpose(0, 1, 3, 2) / np.sqrt(3), -np.inf)
    scores[:, :, 1] = 0  # of no consequence
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    weights[:, :, 1] = 0
    expected = (weights @ heads).transpose(0, 2, 1, 3).reshape(X.shape)
    assert relative_error(actual, expected.astype(np.float32)) <= tolerance("graph_fp32")
    assert not actual[:, 1].any()
