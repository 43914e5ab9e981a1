"""Graphs of `frontend.type: onnx` as they are: the graph is the code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xamc.artifact.manifest import Cpu
from xamc.jobs.cache import StageCache
from xamc.targets.graph_target import GraphCode, GraphFiles, GraphTarget
from xamc.targets.reference.caps import CAPS


class ReferenceGraphs(GraphTarget):
    """See `GraphTarget`."""

    files = GraphFiles("code/model.onnx", "code/graph.json", "weights.params", CAPS.executes_on)

    def code(
        self, graph: Path, data_inputs: int, options: Mapping[str, Any], cache: StageCache, dump: Path | None
    ) -> GraphCode:
        return GraphCode(graph, Cpu("any", ()))
