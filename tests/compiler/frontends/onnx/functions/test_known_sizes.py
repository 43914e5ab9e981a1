"""Uses that are written out with the dimensions of their operands, and pooling with places: against ONNX Runtime."""

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
from xamc.passes.lowering.index_bounds import bound_indices
from xamc.verify.metrics import relative_error

RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((2, 4, 5, 7)).astype(np.float32)
EQUAL = np.round(IMAGE)  # windows with several largest elements
WEIGHT = RNG.standard_normal((4, 3, 3, 2)).astype(np.float32)
CODES = RNG.integers(0, 256, (2, 6, 5)).astype(np.uint8)
SCALES = RNG.uniform(0.01, 0.1, (2, 3, 5)).astype(np.float32)
ZEROS = RNG.integers(100, 150, (2, 3, 5)).astype(np.uint8)
SIGNED = RNG.integers(-20, 20, (2, 2, 5)).astype(np.int8)
COLUMNS = RNG.standard_normal((2, 18, 15)).astype(np.float32)
#: Inputs that are constants in a model.
CONSTANTS: dict[str, dict[str, Any]] = {"Col2Im": {"image": np.array([6, 6]), "block": np.array([3, 2])}}
POOL: dict[str, Any] = {"kernel_shape": [3, 2], "strides": [2, 2]}
CASES: dict[str, tuple[str, dict[str, Any], int, dict[str, Any], int]] = {
    "transposed to a larger shape": (
        "ConvTranspose", {"x": IMAGE, "w": WEIGHT}, 1, {"output_shape": [12, 15], "strides": [2, 2]}, 13,
    ),
    "transposed to a smaller shape": (
        "ConvTranspose", {"x": IMAGE, "w": WEIGHT, "b": WEIGHT[0, :, 0, 0]}, 1,
        {"output_shape": [8, 11], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, 13,
    ),
    "transposed, odd padding before": (
        "ConvTranspose", {"x": IMAGE, "w": WEIGHT}, 1, {"output_shape": [10, 13], "strides": [2, 2]}, 13,
    ),
    "quantized in blocks": (
        "QuantizeLinear", {"x": 5 * IMAGE[:, :1].repeat(6, 1)[..., 0], "s": SCALES, "z": ZEROS}, 1,
        {"axis": 1, "block_size": 2}, 21,
    ),
    "quantized in signed blocks": (
        "QuantizeLinear", {"x": 5 * IMAGE[:, :, :, 0], "s": SCALES[:, :2], "z": SIGNED}, 1,
        {"axis": 1, "block_size": 2}, 21,
    ),
    "dequantized in blocks": (
        "DequantizeLinear", {"x": CODES, "s": SCALES, "z": ZEROS}, 1, {"axis": 1, "block_size": 2}, 21,
    ),
    "dequantized in blocks around 0": (
        "DequantizeLinear", {"x": CODES, "s": SCALES}, 1, {"axis": -2, "block_size": 2}, 21,
    ),
    "pooled with places": ("MaxPool", {"x": EQUAL}, 2, POOL, 13),
    "pooled with places, padded": ("MaxPool", {"x": IMAGE}, 2, POOL | {"pads": [1, 1, 1, 0]}, 13),
    "pooled with places, spread": ("MaxPool", {"x": IMAGE}, 2, POOL | {"dilations": [2, 3], "ceil_mode": 1}, 13),
    "pooled with places by column": ("MaxPool", {"x": IMAGE}, 2, POOL | {"storage_order": 1}, 13),
    "pooled with places, one axis": ("MaxPool", {"x": IMAGE[0]}, 2, {"kernel_shape": [3]}, 13),
    "images of blocks": (
        "Col2Im", {"x": COLUMNS}, 1, {"strides": [2, 1], "pads": [1, 0, 0, 1], "dilations": [1, 2]}, 18,
    ),
    "upsampled": ("Upsample", {"x": IMAGE}, 1, {"scales": [1.0, 1.0, 2.0, 3.0]}, 7),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_against_onnxruntime(name: str, tmp_path: Path) -> None:
    op, feeds, outputs, attributes, opset = CASES[name]
    names, constants = [f"y{index}" for index in range(outputs)], CONSTANTS.get(op, {})
    graph = helper.make_graph(
        [helper.make_node(op, [*feeds, *constants], names, name=op, **attributes)],
        "g",
        [
            helper.make_tensor_value_info(given, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for given, array in feeds.items()
        ],
        [onnx.ValueInfoProto(name=given) for given in names],
        [numpy_helper.from_array(array, given) for given, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.save(model, tmp_path / "m.onnx")
    opened = open_onnx(tmp_path / "m.onnx", {})
    bound_indices(opened.model)
    if op in ("MaxPool", "Col2Im"):
        actual = run(build(ir.to_proto(opened.model), len(feeds), tmp_path), feeds)
    else:  # the operators that are left have tests of their own, and code takes a second to make
        assert opened.operators.keys() != {op} or op == "ConvTranspose"
        actual = list(reference(ir.to_proto(opened.model), feeds).values())
    for ours, theirs in zip(actual, reference(model, feeds).values(), strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        if ours.dtype.kind == "f":
            assert relative_error(ours, theirs) <= tolerance("graph_fp32")
        else:
            np.testing.assert_array_equal(ours, theirs)


def test_places_of_rows_of_minus_infinity(tmp_path: Path) -> None:
    """The first element of a window of nothing else, where ONNX Runtime has none that is larger than the lowest."""
    x = np.full((1, 1, 4), -np.inf, np.float32)
    node = helper.make_node("MaxPool", ["x"], ["y", "at"], kernel_shape=[2], strides=[2])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4])],
        [onnx.ValueInfoProto(name="y"), onnx.ValueInfoProto(name="at")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    values, places = run(build(model, 1, tmp_path), {"x": x})
    assert np.isneginf(values).all() and places.tolist() == [[[0, 2]]]
