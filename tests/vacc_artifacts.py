"""Twins as artifacts of static graphs: what a compile for VACC makes, without the compile around it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from tests import twins
from xamc.artifact.manifest import StaticGraph
from xamc.artifact.records import to_json
from xamc.ir.program import Program
from xamc.ir.weights.kv_scales import KvScales
from xamc.model.bucket import Bucket
from xamc.passes.graph.causal_mask import CausalMask
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.eager_attention import EagerAttention
from xamc.passes.graph.fp16_clamp import Fp16Clamp
from xamc.passes.graph.insert_slice import InsertSlice
from xamc.passes.graph.kv_int8 import KvInt8
from xamc.passes.graph.phase import StaticPhase
from xamc.passes.graph.quantize_per_channel import QuantizePerChannel
from xamc.passes.graph.rope_table import RopeTables
from xamc.passes.graph.shard.split import Shard
from xamc.passes.graph.swiglu import SwiGlu
from xamc.passes.graph.vocab_padding import VocabPadding
from xamc.passes.graph.weight_storage import WeightStorage
from xamc.passes.protocol import GraphPass


@dataclass(frozen=True)
class Variant:
    """How a twin is made into static graphs."""

    kind: str = "tied"
    tp: int = 1
    int8: bool = False
    kv_scales: KvScales | None = None
    insert_slice: bool = True


def whole_program(variant: Variant, bucket: Bucket) -> Program:
    """The graph of a bucket before it is split into ranks."""
    program, _ = twins.twin(variant.kind)
    passes: list[GraphPass] = [Cleanup(), SwiGlu(), StaticPhase(bucket), CausalMask(), RopeTables(), EagerAttention()]
    if bucket.kind == "prefill" and variant.insert_slice:
        passes.append(InsertSlice())
    passes += [VocabPadding(), Fp16Clamp()]
    if variant.int8:
        passes.append(QuantizePerChannel())
    passes.append(WeightStorage("float16", vectors=True))
    if variant.kv_scales is not None:
        passes.append(KvInt8(variant.kv_scales))
    for graph_pass in passes:
        graph_pass.run(program)
    return program


def write_graphs(folder: Path, variant: Variant, buckets: Sequence[Bucket]) -> list[StaticGraph]:
    """Writes the folders of all buckets and ranks. It imports TVM."""
    from xamc.targets.vacc.compile_bucket import build
    from xamc.targets.vacc.mod_json import GraphPlace, graph_text
    from xamc.targets.vacc.params_file import ParamsFile, write_params_files

    graphs = []
    for bucket in buckets:
        ranks = Shard(variant.tp).split(whole_program(variant, bucket))
        for rank, program in enumerate(ranks):
            place = folder / f"{bucket.name}_rank{rank}"
            place.mkdir(parents=True)
            if rank == 0:
                ir.save(program.model, place / "graph.onnx")
                request = {
                    "graph": str(place / "graph.onnx"),
                    "config": to_json(program.config),
                    "dump": str(place / "graph.relax.py"),
                    "out": str(place),
                }
                build(request)
                first = place
            else:
                (place / "mod.so").write_bytes((first / "mod.so").read_bytes())
            result = json.loads((first / "result.json").read_text())
            where = GraphPlace(variant.kind, bucket, rank, variant.tp)
            (place / "mod.json").write_text(graph_text(program, where, result["weights"]))
            tensors = {str(value.name): program.weights[str(value.name)] for value in program.weight_inputs()}
            write_params_files([ParamsFile(place / "mod.params", tensors)], 1)
            name = place.relative_to(folder).as_posix()
            graphs.append(
                StaticGraph(
                    bucket.kind, bucket.length, rank, f"{name}/mod.so", f"{name}/mod.json", f"{name}/mod.params"
                )
            )
    return graphs
