"""The reference target's half of a compile: the graph is the code, the weights are stored row by row."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx_ir as ir

from xamc.artifact.manifest import Cpu, Phase, plan_layout
from xamc.ir.program import Program
from xamc.jobs.cache import StageCache, stage_key
from xamc.targets.pack_weights import PackedWeight
from xamc.targets.request import Generated, TargetRequest
from xamc.verify.scenario import Case

GRAPH = "model.onnx"


def generate(
    program: Program,
    request: TargetRequest,
    twin: tuple[Program, list[Case]] | None,
    cache: StageCache,
    dump: Path | None,
) -> Generated:
    """The graph as a file; its weights stay graph inputs, which the runtime maps from the weights file.

    `request`, `twin` and `dump` are not needed: nothing is generated beyond the proven graph.
    """
    graph = ir.to_proto(program.model).SerializeToString(deterministic=True)
    # the file is the graph itself, so nothing but this module makes it
    key = stage_key("reference", __name__, (), {"graph": hashlib.sha256(graph).hexdigest()})

    def write(folder: Path) -> None:
        (folder / GRAPH).write_bytes(graph)

    folder = cache.publish(key, write)
    buffers = []
    for value in program.weight_inputs():
        assert value.name is not None and value.shape is not None
        dtype = program.weights[value.name].dtype if value.dtype != ir.DataType.FLOAT else "float32"
        buffers.append((value.name, dtype, tuple(int(d) for d in value.shape if isinstance(d, int))))
    entries, _ = plan_layout(buffers)
    weights = tuple(
        PackedWeight(((entry.name, program.weights[entry.name]),), None, (entry.offset,), entry.dtype)
        for entry in entries
    )
    return Generated(
        code=folder / GRAPH,
        code_name=f"code/{GRAPH}",
        functions=("main",),
        phases=(Phase("prefill", ("main",)), Phase("decode", ("main",))),
        cpu=Cpu("any", ()),
        buffers=tuple(buffers),
        weights=weights,
    )
