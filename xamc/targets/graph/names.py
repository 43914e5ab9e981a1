"""Names of files and functions of compiled graphs, for processes that do not import tvm."""

from __future__ import annotations

from dataclasses import dataclass

from xamc.artifact.onnx_manifest import HOST_SIMULATOR

FUNCTION = "main"
# main's weights as they are stored → as it takes them
PREPARE = "main_transform_params"
LIBRARY = "model.so"

# The simulator's code does not depend on the machine that compiles.
VACC_ISA = "x86-64-v3"


@dataclass(frozen=True)
class GraphFiles:
    """Where a target's artifact keeps code, graph and parameters, and what runs it."""

    code: str
    graph: str
    params: str
    executes_on: str


FILES: dict[str, GraphFiles] = {
    "tvm_vacc": GraphFiles("mod.so", "mod.json", "mod.params", HOST_SIMULATOR),
    "tvm_cpu": GraphFiles("code/model.so", "code/graph.json", "weights.params", "cpu"),
    "reference": GraphFiles("code/model.onnx", "code/graph.json", "weights.params", "onnxruntime"),
}
"""Targets that take graphs."""
