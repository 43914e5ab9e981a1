"""A library that was compiled again to the same place is the new one, also for a process that holds the old one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.targets.onnx.operators import build, graph
from xamc.runtime.tvm_library import load_functions, tvm_ffi


def test_the_same_place_again(tmp_path: Path) -> None:
    found = []
    for number in (1.0, 2.0):
        folder = tmp_path / str(number)
        folder.mkdir()
        model = graph([("Add", ["x", "c"], ["y"], {})], {"x": ("f4", [1])}, ["y"], {"c": np.float32(number)})
        build(model, 1, folder).replace(tmp_path / "model.so")
        found.append(load_functions(tmp_path / "model.so", ["main"])["main"])
    x = tvm_ffi().from_dlpack(np.zeros(16, np.float32)[:1])
    assert [float(np.from_dlpack(main(x))[0]) for main in found] == [1.0, 2.0]
