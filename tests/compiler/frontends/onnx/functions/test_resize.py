"""Resize written out, evaluated by ONNX Runtime, against ONNX's own reference; and what keeps its operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.onnx_models import reference
from xamc.compiler.frontends.onnx.model import open_onnx
from xamc.errors import UnsupportedError
from xamc.ir.tolerances import tolerance
from xamc.verify.metrics import relative_error

X = np.random.default_rng(0).standard_normal((2, 3, 9, 7)).astype(np.float32)
SMALLER, LARGER = [1.0, 1.0, 0.6, 0.4], [1.0, 1.0, 1.3, 2.5]
ROI = [0.1, -0.2, 0.8, 1.1]
FITTED = {"axes": [3, 2], "mode": "linear"}

#: Attributes, scales, sizes; `roi` where the attributes say that it is read.
CASES: dict[str, tuple[dict[str, Any], list[float] | None, list[int] | None]] = {
    "linear, antialias": ({"mode": "linear", "antialias": 1}, SMALLER, None),
    "linear, antialias, larger": ({"mode": "linear", "antialias": 1}, LARGER, None),
    "cubic, antialias": ({"mode": "cubic", "antialias": 1, "cubic_coeff_a": -0.5}, None, [2, 3, 4, 3]),
    "cubic, antialias, within": ({"mode": "cubic", "antialias": 1, "exclude_outside": 1}, SMALLER, None),
    "cubic": ({"mode": "cubic"}, SMALLER, None),
    "cubic, within": ({"mode": "cubic", "exclude_outside": 1}, LARGER, None),
    "of all axes": ({"mode": "linear"}, None, [3, 2, 5, 7]),
    "nearest of all axes": ({}, [2.0, 1.0, 0.5, 1.0], None),
    "not larger": ({**FITTED, "keep_aspect_ratio_policy": "not_larger"}, None, [5, 5]),
    "not smaller": ({"axes": [2, 3], "keep_aspect_ratio_policy": "not_smaller"}, None, [5, 6]),
    "crop": ({**FITTED, "coordinate_transformation_mode": "tf_crop_and_resize"}, None, [5, 6]),
    "nearest crop": (
        {"axes": [2, 3], "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.5},
        None,
        [5, 6],
    ),
    **{
        f"linear, {mode}": ({"mode": "linear", "coordinate_transformation_mode": mode}, SMALLER, None)
        for mode in ("align_corners", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric")
    },
    "one element": ({**FITTED, "coordinate_transformation_mode": "pytorch_half_pixel"}, None, [1, 1]),
    **{
        f"nearest, {mode}": ({"axes": [2, 3], "nearest_mode": mode}, [1.5, 0.7], None)
        for mode in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    },
}


def _model(attributes: dict[str, Any], scales: Any, sizes: Any, constant: bool = True) -> onnx.ModelProto:
    cropped = attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    arrays = {"roi": (ROI if cropped else [], "f4"), "scales": (scales, "f4"), "sizes": (sizes, "i8")}
    tensors = [numpy_helper.from_array(np.array(v, kind), n) for n, (v, kind) in arrays.items() if v is not None]
    names = [name if values is not None else "" for name, (values, _) in arrays.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)]
    if not constant:
        inputs.append(helper.make_tensor_value_info("sizes", TensorProto.INT64, [len(sizes)]))
    graph = helper.make_graph(
        [helper.make_node("Resize", ["x", *names], ["y"], name="/my/Resize", **attributes)],
        "g",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b", "c", "d"])],
        [tensor for tensor in tensors if constant or tensor.name != "sizes"],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_out_computes_the_same(name: str, tmp_path: Path) -> None:
    model = _model(*CASES[name])
    onnx.save(model, tmp_path / "m.onnx")
    opened = open_onnx(tmp_path / "m.onnx", {})
    assert "Resize" not in opened.operators
    opened.model.ir_version = min(opened.model.ir_version, 10)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": X})
    actual = reference(ir.to_proto(opened.model), {"x": X})["y"]
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    assert relative_error(actual, expected) <= tolerance("graph_fp32")


def test_what_tvm_has_stays_as_it_is(tmp_path: Path) -> None:
    onnx.save(_model({"mode": "linear"}, [1.0, 1.0, 2.0, 2.0], None), tmp_path / "m.onnx")
    assert list(open_onnx(tmp_path / "m.onnx", {}).operators) == ["Resize"]


def test_a_use_whose_sizes_are_data_is_refused_by_name(tmp_path: Path) -> None:
    onnx.save(_model({"mode": "linear", "antialias": 1}, None, [2, 3, 4, 3], constant=False), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError) as caught:
        open_onnx(tmp_path / "m.onnx", {})
    assert caught.value.code == "E1154" and "antialias" in " ".join(caught.value.details)
