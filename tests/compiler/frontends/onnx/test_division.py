"""Integer `Div` and `Mod` of every type and sign, by 0 and by -1, against Python's integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from tests.onnx_models import reference
from tests.targets.onnx.operators import Compiled, Node, graph
from xamc.compiler.frontends.onnx.division import guard_divisions

NODES: list[Node] = [
    ("Div", ["a", "b"], ["quotient"], {}),
    ("Mod", ["a", "b"], ["rest"], {}),
    ("Mod", ["a", "b"], ["truncated"], {"fmod": 1}),
]


def _quotient(a: int, b: int) -> int:
    return 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_every_integer(dtype: str, tmp_path: Path) -> None:
    info = np.iinfo(dtype)
    few = [info.max, 0, 1, 2, 3, 7, 100, *([info.min, -1, -2, -3, -7] if info.min else [])]
    pairs = [(a, b) for a in few for b in few]
    a, b = (np.array([pair[i] for pair in pairs], dtype) for i in (0, 1))
    model = graph(NODES, {"a": (dtype, a.shape), "b": (dtype, b.shape)}, ["quotient", "rest", "truncated"])
    found = Compiled(model, tmp_path)({"a": a, "b": b})
    wanted = {
        "quotient": [_quotient(x, y) for x, y in pairs],
        "rest": [x % y if y else 0 for x, y in pairs],
        "truncated": [x - _quotient(x, y) * y if y else 0 for x, y in pairs],
    }
    for name, values in wanted.items():
        wrapped = np.array([(value - info.min) % 2**info.bits + info.min for value in values], object).astype(dtype)
        np.testing.assert_array_equal(found[name], wrapped, err_msg=name)
    if info.bits < 64:  # ONNX Runtime computes fmod of those in double
        sound = (b != 0) & (b != np.array(-1).astype(dtype))
        feeds = {"a": a[sound], "b": b[sound]}
        model = graph(NODES, {"a": (dtype, feeds["a"].shape), "b": (dtype, feeds["b"].shape)}, list(wanted))
        for name, array in reference(model, feeds).items():
            np.testing.assert_array_equal(found[name][sound], array, err_msg=name)


@pytest.mark.parametrize(("divisor", "count"), [(2, 0), (-3, 0), (0, 1), (-1, 1)])
def test_known_divisors(divisor: int, count: int) -> None:
    model = graph(NODES[:1], {"a": ("i8", [3])}, ["quotient"], {"b": np.int64(divisor)})
    assert guard_divisions(ir.from_proto(model)) == count


def test_dimensions_are_no_risk() -> None:
    """They are 1 or more; a guard would hide from the code generator what they are."""
    nodes: list[Node] = [
        ("Shape", ["x"], ["s"], {}), ("Gather", ["s", "axis"], ["n"], {}), ("Mul", ["n", "two"], ["m"], {}),
        ("Div", ["two", "m"], ["y"], {}),
    ]  # fmt: skip
    model = graph(nodes, {"x": ("f4", ["b", 4])}, ["y"], {"axis": np.int64(0), "two": np.int64(2)})
    assert guard_divisions(ir.from_proto(model)) == 0


def test_the_guarded_graph_is_the_graph_for_onnx_runtime(tmp_path: Path) -> None:
    """Without the guard this ends the process."""
    model = ir.from_proto(graph(NODES, {"a": ("i8", [3]), "b": ("i8", [3])}, ["quotient", "rest", "truncated"]))
    assert guard_divisions(model) == 3
    feeds: dict[str, Any] = {"a": np.array([7, np.iinfo(np.int64).min, -7]), "b": np.array([0, -1, 2])}
    found = reference(ir.to_proto(model), feeds)
    assert found["quotient"].tolist() == [0, np.iinfo(np.int64).min, -3] and found["rest"].tolist() == [0, 0, 1]
