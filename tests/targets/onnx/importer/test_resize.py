"""`Resize` of dimensions that vary, by scales and to sizes, every size against ONNX Runtime; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.onnx_models import reference
from tests.targets.onnx.operators import Compiled, Node, graph
from xamc.errors import UnsupportedError

IMAGES = {"x": ("f4", ["b", 2, "h", "w"])}
RANGE = {"x": [[1, 2, 5, 7], [2, 2, 12, 16]]}
PLACES = "coordinate_transformation_mode"
SIZES = ((1, 5, 7), (2, 12, 9))
TWICE = {"twice": np.array([1, 1, 2, 2], np.float32), "half": np.array([1, 1, 0.5, 0.5], np.float32)}


def _compare(nodes: list[Node], outputs: list[str], constants: dict[str, Any], folder: Path, opset: int = 18) -> None:
    model = graph(nodes, IMAGES, outputs, constants, opset)
    compiled = Compiled(model, folder, RANGE)
    for batch, height, width in SIZES:
        x = np.random.default_rng(height).standard_normal((batch, 2, height, width)).astype(np.float32)
        expected = reference(model, {"x": x})
        for name, array in compiled({"x": x}).items():
            assert array.shape == expected[name].shape, name
            np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_scales(tmp_path: Path) -> None:
    floor = {PLACES: "asymmetric", "nearest_mode": "floor"}
    nodes: list[Node] = [
        ("Resize", ["x", "", "twice"], ["nearest"], {}),
        ("Resize", ["x", "", "twice"], ["floor"], floor),
        ("Resize", ["x", "", "twice"], ["linear"], {"mode": "linear"}),
        ("Resize", ["x", "", "half"], ["smaller"], {"mode": "linear", PLACES: "asymmetric"}),
        (
            "Resize",
            ["x", "", "twice"],
            ["corners"],
            {"mode": "linear", PLACES: "align_corners"},
        ),
    ]
    _compare(nodes, [made[0] for _, _, made, _ in nodes], TWICE, tmp_path)


@pytest.mark.parametrize("opset", [11, 18])
def test_sizes(opset: int, tmp_path: Path) -> None:
    """Batch and channels as they are, beside numbers; older exporters give empty scales along with them."""
    left_out = ["none", "none"] if opset == 11 else ["", ""]
    nodes: list[Node] = [
        ("Shape", ["x"], ["s"], {}), ("Slice", ["s", "zero", "two"], ["kept"], {}),
        ("Concat", ["kept", "wanted"], ["sizes"], {"axis": 0}),
        ("Resize", ["x", *left_out, "sizes"], ["y"], {"mode": "linear"}),
    ]  # fmt: skip
    constants = {"zero": np.array([0]), "two": np.array([2]), "wanted": np.array([6, 10])}
    constants |= {"none": np.zeros(0, np.float32)}
    _compare(nodes, ["y"], constants, tmp_path, opset)


@pytest.mark.parametrize(("attributes", "scale"), [({"mode": "cubic"}, 2.0), ({}, 1.5)])
def test_what_is_refused(attributes: dict[str, Any], scale: float, tmp_path: Path) -> None:
    constants = {"scales": np.array([1, 1, scale, scale], np.float32)}
    model = graph([("Resize", ["x", "", "scales"], ["y"], attributes)], IMAGES, ["y"], constants)
    with pytest.raises(UnsupportedError, match="Resize /my/y") as caught:
        Compiled(model, tmp_path, RANGE)
    assert caught.value.code == "E1473" and "frontend.shape" in caught.value.fix
