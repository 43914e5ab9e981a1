"""Code for a static graph, in the compiling process: from the child that has tvm, or from the cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from xamc.artifact.manifest import Cpu
from xamc.jobs.cache import StageCache, stage_key
from xamc.jobs.child import Limits
from xamc.targets.child_stage import child_stage
from xamc.targets.kernels.isa import Isa
from xamc.targets.onnx.names import LIBRARY
from xamc.targets.onnx_target import OnnxCode

LIMITS = Limits(seconds=3600, memory_bytes=12 * 2**30)
_CHILD = "xamc.targets.onnx.build:build"
_TOOLS = ("onnx",)  # TVM's importer reads graphs with it


def onnx_library(graph: Path, data_inputs: int, isa: Isa, cache: StageCache, dump: Path | None) -> OnnxCode:
    """Compiles an ONNX graph whose weights are inputs.

    Args:
        graph: the ONNX file; data inputs come first.
        data_inputs: how many there are.
        isa: the CPU level.
        cache: where results are kept.
        dump: folder for readable IR, or None; the child then runs even if its result is known.

    Raises:
        UnsupportedError: E1461, E1462, E1473.
        ToolchainError: E152x the child failed.
    """
    digest = hashlib.sha256(graph.read_bytes()).hexdigest()
    given = {"isa": isa.name, "data_inputs": data_inputs}
    key = stage_key("codegen", __name__, (_CHILD,), {"graph": digest, **given}, _TOOLS)
    folder = child_stage(cache, key, _CHILD, {"graph": str(graph), **given}, LIMITS, dump=dump)
    return OnnxCode(folder / LIBRARY, Cpu(isa.name, isa.cpu_flags))
