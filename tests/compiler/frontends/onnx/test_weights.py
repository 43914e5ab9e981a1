"""Weights as graph inputs in fewer bits: the graph with them computes what the rounded weights give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto

from tests.onnx_models import MODELS, SHAPES, Graph, feeds, reference, write
from xamc.compiler.frontends.onnx.model import open_onnx
from xamc.compiler.frontends.onnx.weights import Storage, lift_weights, quantize_per_channel, store_weights
from xamc.ir.tolerances import tolerance
from xamc.verify.metrics import relative_error
from xamc.verify.onnx_model_oracle import answers


def graph_of(kind: str, folder: Path) -> ir.Model:
    return open_onnx(write(kind, folder / "m.onnx"), SHAPES[kind]).model


@pytest.mark.parametrize("storage", ["float16", "int8"])
@pytest.mark.parametrize("kind", MODELS)
def test_widened_weights_are_the_rounded_ones(kind: str, storage: Storage, tmp_path: Path) -> None:
    """Against the same graph fed in float32 with weights that were rounded here."""
    model, rounded_model = graph_of(kind, tmp_path), graph_of(kind, tmp_path)
    stored = store_weights(model, lift_weights(model), storage)
    rounded = {}
    for name, array in lift_weights(rounded_model).items():
        if name in stored.quantized:
            codes, scales = stored.tensors[f"{name}.codes"], stored.tensors[f"{name}.scales"]
            axis = next(i for i, dim in enumerate(codes.shape) if dim == len(scales) and i in (0, 1))
            if codes.ndim == 2 and codes.shape[0] == codes.shape[1]:
                axis = 0 if name == "weight.152" else 1  # BERT's pooler is a Gemm with transB
            shape = [1] * codes.ndim
            shape[axis] = -1
            rounded[name] = codes.astype(np.float32) * scales.reshape(shape)
        else:
            rounded[name] = array.astype(np.float16).astype(np.float32)
    given, expected = feeds(kind), answers(rounded_model, rounded, feeds(kind))
    actual = answers(model, stored.tensors, given)
    for name in expected:
        assert relative_error(actual[name], expected[name]) <= tolerance("stored_weights")
    assert not stored.kept and bool(stored.quantized) == (storage == "int8")
    assert {array.dtype.name for array in stored.tensors.values()} <= {"float16", "int8", "float32"}
    names = [str(value.name) for value in model.graph.inputs]
    assert names == [*SHAPES[kind], *stored.tensors]


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 3)),
               elements=st.floats(-1e4, 1e4, width=32)),
    st.integers(0, 2),
)  # fmt: skip
def test_codes_are_within_half_a_step(array: Any, axis: int) -> None:
    codes, scales = quantize_per_channel(array, axis)
    shape = [1, 1, 1]
    shape[axis] = -1
    step = scales.reshape(shape).astype(np.float64)
    off = np.abs(codes * step - array) / step
    assert codes.dtype == np.int8 and codes.min() >= -127 and off.max() <= tolerance("quantization_step")
    others = tuple(i for i in range(3) if i != axis)
    used = np.abs(array).max(axis=others) > 1e-30
    assert (np.abs(codes.astype(int)).max(axis=others)[used] == 127).all(), "a channel does not use all codes"


def test_what_stays_in_the_graph(tmp_path: Path) -> None:
    """Scalars, integers, infinite masks and what the importer reads; a weight beyond float16 keeps float32."""
    g = Graph()
    mask = np.where(np.tril(np.ones((4, 4))), 0, -np.inf).astype(np.float32)
    y = g.add("Add", g.add("MatMul", "x", g.const(np.full((4, 4), 1e5, np.float32), "large")), g.const(mask, "mask"))
    y = g.add("Mul", y, g.const(np.float32(2), "scalar"))
    y = g.add("Resize", y, "", g.const(np.array([1, 1, 2, 2], np.float32), "scales"), mode="nearest")
    model = ir.from_proto(g.model({"x": (TensorProto.FLOAT, [1, 1, 4, 4])}, {"y": (y, [1, 1, 8, 8])}))
    weights = lift_weights(model)
    assert [name.partition(".")[0] for name in weights] == ["large"]
    stored = store_weights(model, weights, "float16")
    assert [*stored.kept] == [*weights] and stored.tensors[next(iter(weights))].dtype == np.float32


def test_tables_are_widened_behind_the_lookup(tmp_path: Path) -> None:
    model = graph_of("bert", tmp_path)
    store_weights(model, lift_weights(model), "float16")
    table = next(value for value in model.graph.inputs if value.name == "weight.1")
    assert [node.op_type for node, _ in table.uses()] == ["Gather"]


def test_scales_per_channel_before_operator_set_13(tmp_path: Path) -> None:
    g = Graph()
    y = g.add("MatMul", "x", g.weight(4, 6))
    proto = g.model({"x": (TensorProto.FLOAT, [2, 4])}, {"y": (y, [2, 6])}, opset=11)
    model = ir.from_proto(proto)
    stored = store_weights(model, lift_weights(model), "int8")
    assert "DequantizeLinear" not in {node.op_type for node in model.graph}
    x = np.eye(4, dtype=np.float32)[:2]
    (codes, scales), expected = stored.tensors.values(), reference(proto, {"x": x})["y"]
    actual = answers(model, stored.tensors, {"x": x})["y"]
    np.testing.assert_allclose(actual, x @ (codes.astype(np.float32) * scales), rtol=1e-6)
    assert 0 < relative_error(actual, expected) < 0.01
