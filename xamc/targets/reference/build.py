"""The reference target's artifact: the graph is the code, the weights are stored row by row."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx_ir as ir

from xamc.artifact.manifest import Cpu, KvCache, Phase, plan_layout
from xamc.jobs.cache import stage_key
from xamc.targets.pack_weights import PackedWeight
from xamc.targets.request import Request
from xamc.targets.target import Built, Work
from xamc.targets.weights_file import write_weights

GRAPH = "model.onnx"


def build(work: Work[Request]) -> Built:
    """The graph as a file; its weights stay graph inputs, which the runtime maps from the weights file.

    Nothing is generated beyond the proven graph.
    """
    program = work.rewritten.program
    graph = ir.to_proto(program.model).SerializeToString(deterministic=True)
    with work.progress.stage("codegen") as stage:
        # the file is the graph itself, so nothing but this module makes it
        key = stage_key("reference", __name__, (), {"graph": hashlib.sha256(graph).hexdigest()})

        def write(folder: Path) -> None:
            (folder / GRAPH).write_bytes(graph)

        folder = work.cache.publish(key, write)
        stage.result("ONNX", work.cache.state("reference"))
    buffers = []
    for value in program.weight_inputs():
        assert value.name is not None and value.shape is not None
        dtype = program.weights[value.name].dtype if value.dtype != ir.DataType.FLOAT else "float32"
        buffers.append((value.name, dtype, tuple(int(d) for d in value.shape if isinstance(d, int))))
    entries, _ = plan_layout(buffers)
    weights = [
        PackedWeight(((entry.name, program.weights[entry.name]),), None, (entry.offset,), entry.dtype)
        for entry in entries
    ]
    path, table = write_weights(work, tuple(buffers), weights)
    return Built(
        files={f"code/{GRAPH}": folder / GRAPH, table.file: path},
        fields={
            "context_limit": work.context_limit,
            "prefill_chunk": work.prefill_chunk,
            "max_batch": work.max_batch,
            "kv": KvCache.paged(work.request.kv_dtype, 0),
            "functions": ("main",),
            "phases": (Phase("prefill", ("main",)), Phase("decode", ("main",))),
            "code_file": f"code/{GRAPH}",
            "weights": table,
            "cpu": Cpu("any", ()),
        },
        weights=table.nbytes,
    )
