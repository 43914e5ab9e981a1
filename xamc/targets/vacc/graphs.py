"""Graphs of `frontend.type: onnx` for a die, run by the host's simulator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xamc.jobs.cache import StageCache
from xamc.targets.graph.library import graph_library
from xamc.targets.graph_target import GraphCode, GraphFiles, GraphTarget
from xamc.targets.kernels.isa import Isa
from xamc.targets.vacc.caps import CAPS
from xamc.targets.vacc.names import GRAPH, ISA, LIBRARY, PARAMS


class VaccGraphs(GraphTarget):
    """See `GraphTarget`."""

    files = GraphFiles(LIBRARY, GRAPH, PARAMS, CAPS.executes_on)
    has_dies = True

    def code(
        self, graph: Path, data_inputs: int, options: Mapping[str, Any], cache: StageCache, dump: Path | None
    ) -> GraphCode:
        return graph_library(graph, data_inputs, Isa.by_name(ISA), cache, dump)
