"""How a target takes a model of `frontend.type: onnx`, which is no language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xamc.artifact.manifest import Cpu
from xamc.jobs.cache import StageCache


@dataclass(frozen=True)
class OnnxCode:
    """The library (or graph) to put into the artifact, and what it needs to run."""

    file: Path
    cpu: Cpu


def _anything(options: Mapping[str, Any]) -> None:
    """Refuses nothing."""


@dataclass(frozen=True)
class OnnxTarget:
    """The part of a target that is asked for graphs.

    Attributes:
        code_file, graph_file, params_file: where an artifact keeps code, graph and parameters.
        code: (ONNX graph whose weights are inputs behind the data, number of data inputs, `backend.compile`, where
            results are kept, folder for readable IR or None) → its code; refuses operators that it has no code for.
        check: refuses what of `backend.compile` goes with language models alone.
        widens: whether kernels have weights in memory as float32, however they are stored.
        has_dies: whether a graph must fit into a die's memory.
    """

    code_file: str
    graph_file: str
    params_file: str
    code: Callable[[Path, int, Mapping[str, Any], StageCache, Path | None], OnnxCode]
    check: Callable[[Mapping[str, Any]], None] = _anything
    widens: bool = False
    has_dies: bool = False
