"""`auto_pad` where dimensions vary, every size against ONNX Runtime; and with numbers, where places are wanted too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.onnx_models import reference
from tests.targets.onnx.operators import Compiled, Node, graph

WEIGHTS = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
WINDOW = {"kernel_shape": [3, 2], "strides": [2, 2]}


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_dimensions_that_vary(auto_pad: str, tmp_path: Path) -> None:
    same: dict[str, Any] = {"auto_pad": auto_pad}
    nodes: list[Node] = [
        ("Conv", ["x", "w"], ["conv"], same | {"strides": [2, 2]}),
        ("Conv", ["x", "w"], ["thin"], same | {"strides": [1, 3]}),
        ("MaxPool", ["x"], ["most"], same | WINDOW),
        ("AveragePool", ["x"], ["mean"], same | WINDOW),
        ("AveragePool", ["x"], ["with padding"], same | WINDOW | {"count_include_pad": 1}),
        ("Relu", ["conv"], ["relu"], {}),
        ("Add", ["relu", "conv"], ["sum"], {}),
    ]
    names = ["thin", "most", "mean", "with padding", "sum"]
    model = graph(nodes, {"x": ("f4", ["b", 3, "h", "w"])}, names, {"w": WEIGHTS})
    compiled = Compiled(model, tmp_path, {"x": [[1, 3, 5, 7], [2, 3, 12, 16]]})
    for batch, height, width in ((1, 5, 7), (2, 8, 9), (2, 12, 16)):
        x = np.random.default_rng(height).standard_normal((batch, 3, height, width)).astype(np.float32)
        expected = reference(model, {"x": x})
        for name, array in compiled({"x": x}).items():
            assert array.shape == expected[name].shape, name
            np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_places(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("MaxPool", ["x"], [f"v{pad}", f"i{pad}"], WINDOW | {"auto_pad": pad}) for pad in ("SAME_UPPER", "SAME_LOWER")
    ]
    names = [name for _, _, made, _ in nodes for name in made]
    x = np.random.default_rng(1).standard_normal((1, 2, 7, 8)).astype(np.float32)
    model = graph(nodes, {"x": ("f4", x.shape)}, names)
    expected = reference(model, {"x": x})
    for name, array in Compiled(model, tmp_path)({"x": x}).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
