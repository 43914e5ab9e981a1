"""Graphs of `frontend.type: onnx` for one CPU level."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xamc.errors import UnsupportedError
from xamc.jobs.cache import StageCache
from xamc.targets.cpu.request import mcpu
from xamc.targets.kernels.isa import Isa
from xamc.targets.onnx.library import onnx_library
from xamc.targets.onnx_target import OnnxCode, OnnxTarget


def _check(options: Mapping[str, Any]) -> None:
    if "cpu" in options:
        raise UnsupportedError(
            "E1483",
            "graphs of frontend.type onnx are compiled for one CPU level; backend.compile.cpu lists several",
            fix="set backend.compile.mcpu to the lowest of them, or compile an artifact for each",
            keys=("backend.compile.cpu",),
        )


def _code(graph: Path, data: int, options: Mapping[str, Any], cache: StageCache, dump: Path | None) -> OnnxCode:
    return onnx_library(graph, data, Isa.rising([mcpu(options)])[0], cache, dump)


ONNX = OnnxTarget("code/model.so", "code/graph.json", "weights.params", _code, _check, widens=True)
