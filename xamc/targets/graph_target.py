"""How a target takes a graph of `frontend.type: onnx`, which is no language model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xamc.artifact.manifest import Cpu
from xamc.jobs.cache import StageCache


@dataclass(frozen=True)
class GraphFiles:
    """Where a target's artifact keeps code, graph and parameters, and what runs it."""

    code: str
    graph: str
    params: str
    executes_on: str


@dataclass(frozen=True)
class GraphCode:
    """The library (or graph) to put into the artifact, and what it needs to run."""

    file: Path
    cpu: Cpu


class GraphTarget(ABC):
    """The part of a target that is asked for graphs.

    Attributes:
        files: of its artifacts.
        widens: whether its kernels have weights in memory as float32, however they are stored.
        has_dies: whether a graph must fit into a die's memory.
    """

    files: GraphFiles
    widens: bool = False
    has_dies: bool = False

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuses what of `backend.compile` goes with language models alone.

        Raises:
            UnsupportedError: naming the key.
        """

    @abstractmethod
    def code(
        self, graph: Path, data_inputs: int, options: Mapping[str, Any], cache: StageCache, dump: Path | None
    ) -> GraphCode:
        """Code for an ONNX graph whose weights are inputs.

        Args:
            graph: the ONNX file; data inputs come first.
            data_inputs: how many there are.
            options: `backend.compile`.
            cache: where results are kept.
            dump: folder for readable IR, or None.

        Raises:
            UnsupportedError: E1461, E1462, E1473.
            ToolchainError: E152x the child failed.
        """
