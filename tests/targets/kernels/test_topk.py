"""The best elements of rows, against a sort of each row: equal ones by place, NaN above all."""

from __future__ import annotations

from functools import cmp_to_key
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.onnx_models import reference
from tests.targets.onnx.operators import Compiled, graph

RNG = np.random.default_rng(0)
NAN, INF = np.nan, np.inf
SPECIAL = [[1, NAN, 3, 2, -0.0, 0], [NAN, 1, INF, 2, NAN, -INF], [INF, -INF, 1, 0, 1, 1], [-INF] * 6, [-0.0, 0.0] * 3]
TENSORS: dict[str, NDArray[Any]] = {
    "special": np.array(SPECIAL, np.float32),
    "special, float64": np.array(SPECIAL, np.float64),
    "ties": RNG.integers(-3, 3, (3, 7, 4)).astype(np.float32),
    "many": RNG.standard_normal((2, 500)).astype(np.float32),
    "int64": RNG.integers(-100, 100, (50,)),
    "int8": RNG.integers(-128, 127, (5, 9)).astype(np.int8),
    "uint64": RNG.integers(0, 3, (4, 9)).astype(np.uint64) * np.uint64(2**62),
}


def best(x: NDArray[Any], k: int, axis: int, largest: bool) -> NDArray[np.int64]:
    """Places of the k best elements along an axis."""
    rows = np.moveaxis(x, axis, -1)
    places = np.zeros((*rows.shape[:-1], k), np.int64)
    for at in np.ndindex(rows.shape[:-1]):
        row = rows[at].tolist()

        def order(a: int, b: int, row: list[Any] = row) -> int:
            left, right = ((row[i] != row[i], 0 if row[i] != row[i] else row[i]) for i in (a, b))
            return a - b if left == right else (-1 if left > right else 1) * (1 if largest else -1)

        places[at] = sorted(range(len(row)), key=cmp_to_key(order))[:k]
    return np.moveaxis(places, -1, axis)


@pytest.mark.parametrize("name", TENSORS)
def test_against_a_sort(name: str, tmp_path: Path) -> None:
    x = TENSORS[name]
    cases = {
        f"{axis}_{k}_{largest}": (axis, min(k, x.shape[axis]), largest)
        for axis in range(x.ndim) for k in (1, 3, 64) for largest in (0, 1)
    }  # fmt: skip
    nodes = [
        ("TopK", ["x", f"k{c}"], [f"v{c}", f"i{c}"], {"axis": axis, "largest": largest, "sorted": largest})
        for c, (axis, _, largest) in cases.items()
    ]
    outputs = [name for _, _, made, _ in nodes for name in made]
    model = graph(nodes, {"x": (x.dtype, x.shape)}, outputs, {f"k{c}": np.array([k]) for c, (_, k, _) in cases.items()})
    found = Compiled(model, tmp_path)({"x": x})
    for case, (axis, k, largest) in cases.items():
        places = best(x, k, axis, bool(largest))
        np.testing.assert_array_equal(found[f"i{case}"], places, err_msg=case)
        np.testing.assert_array_equal(found[f"v{case}"], np.take_along_axis(x, places, axis), err_msg=case)


def test_as_many_as_a_dimension_that_varies(tmp_path: Path) -> None:
    """min(n, 4) of n, for n from 2 to 8."""
    nodes = [
        ("Shape", ["x"], ["shape"], {}), ("Gather", ["shape", "axis"], ["n"], {}),
        ("Min", ["n", "most"], ["least"], {}), ("Unsqueeze", ["least", "zero"], ["k"], {}),
        ("TopK", ["x", "k"], ["v", "i"], {"axis": 1, "largest": 0}),
    ]  # fmt: skip
    constants = {"axis": np.int64(1), "most": np.int64(4), "zero": np.array([0])}
    model = graph(nodes, {"x": ("f4", ["b", "n", 3])}, ["v", "i"], constants)
    compiled = Compiled(model, tmp_path, {"x": [[1, 2, 3], [4, 8, 3]]})
    for batch, n in ((1, 2), (3, 5), (4, 8)):
        x = RNG.integers(-3, 3, (batch, n, 3)).astype(np.float32)
        expected = reference(model, {"x": x})
        for name, array in compiled({"x": x}).items():
            np.testing.assert_array_equal(array, expected[name])
