"""Uses that would be computed otherwise than ONNX says are found; the others pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from tests.onnx_models import Graph
from xamc.compiler.frontends.onnx.model import open_onnx
from xamc.compiler.frontends.onnx.uses import wrong_use
from xamc.errors import UnsupportedError


@pytest.mark.parametrize(
    ("op", "attributes", "words"),
    [
        ("BatchNormalization", {"training_mode": 1}, "training_mode 1"),
        ("BatchNormalization", {}, None),
        ("Resize", {"antialias": 1, "mode": "linear"}, "antialias 1"),
        ("RoiAlign", {"mode": "max"}, "mode max"),
        ("RoiAlign", {}, None),
        ("SpaceToDepth", {"mode": "CRD", "blocksize": 2}, "mode CRD"),
        ("ConvTranspose", {"output_shape": [10, 8]}, "output_shape"),
        ("ConvTranspose", {"pads": [0, 0, 0, 0]}, None),
    ],
)
def test_attributes(op: str, attributes: dict[str, Any], words: str | None) -> None:
    value = ir.Value(name="x", shape=ir.Shape([1, 3, 4, 4]), type=ir.TensorType(ir.DataType.FLOAT))
    found = wrong_use(ir.node(op, [value], attributes))
    assert (found is None) if words is None else (found is not None and words in found)


@pytest.mark.parametrize(("known", "wrong"), [(None, True), (True, True), (False, False)])
def test_dropout_that_may_train(known: bool | None, wrong: bool) -> None:
    training = ir.Value(name="t", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.BOOL))
    if known is not None:
        training.const_value = ir.tensor(np.array(known), name="t")
    x = ir.Value(name="x", shape=ir.Shape([4]), type=ir.TensorType(ir.DataType.FLOAT))
    assert (wrong_use(ir.node("Dropout", [x, None, training])) is not None) == wrong
    assert wrong_use(ir.node("Dropout", [x])) is None


@pytest.mark.parametrize(
    ("mode", "scale", "wrong"),
    [("linear", 0.6, True), ("cubic", 0.8, True), ("linear", 2.5, False), ("nearest", 0.6, False)],
)
def test_scales_that_are_rounded(mode: str, scale: float, wrong: bool, tmp_path: Path) -> None:
    """Through the front door: the node is named with what is wrong with it. Of floats it would be written out."""
    g = Graph()
    scales = g.const(np.array([1, 1, scale, scale], np.float32))
    y = g.add("Resize", "x", g.const(np.zeros(0, np.float32)), scales, mode=mode)
    number = g.add("Cast", y, to=TensorProto.FLOAT)
    model = g.model({"x": (TensorProto.UINT8, [1, 3, 4, 4])}, {"y": (number, ["a", "b", "c", "d"])})
    onnx.save(model, tmp_path / "m.onnx")
    if not wrong:
        assert open_onnx(tmp_path / "m.onnx", {}).operators["Resize"] == 1
        return
    with pytest.raises(UnsupportedError, match="Resize") as caught:
        open_onnx(tmp_path / "m.onnx", {})
    assert caught.value.code == "E1154" and "whole dimensions" in caught.value.details[0]
    assert y.replace("resize_", "/Resize_") in caught.value.details[0]
