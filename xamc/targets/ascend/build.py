"""Ascend's artifact through ATC: ONNX files with shared weights, atc.sh, GE's configuration, and every gear checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xamc.artifact.gears import FORMAT, GEARS, GearEntry, Gears, GraphEntry, gears_text
from xamc.artifact.manifest import Cpu, KvCache, StaticGraph
from xamc.artifact.staging import disk_errors
from xamc.ir.onnx_weights import WEIGHTS, SharedWeights, write_onnx
from xamc.ir.program import Program
from xamc.jobs.progress import Stage, size
from xamc.model.config import ModelConfig
from xamc.passes.protocol import GraphPass
from xamc.targets.ascend.caps import CAPS
from xamc.targets.ascend.gear_proof import GearProof, prove_gears
from xamc.targets.ascend.gears import GearGraph, graphs_of
from xamc.targets.ascend.passes import gear_passes
from xamc.targets.ascend.plan import MOST_GEAR_BYTES
from xamc.targets.ascend.request import AscendRequest
from xamc.targets.ascend.scripts import NEVER_RUN, SCRIPT, atc_script, ge_config
from xamc.targets.buckets import bucket_phases, common_passes
from xamc.targets.target import Built, Work


def build(work: Work[AscendRequest]) -> Built:
    """The stages `gears` and `onnx`: every gear proven on the twin, and all files.

    Raises:
        InternalError: E1328, a gear answers otherwise than the exported program.
        InputError: what reading the weights finds, or a full disk.
    """
    planned = graphs_of(work.request)
    proofs: list[GearProof] = []
    if work.rewritten.exported_twin is not None:
        with work.progress.stage("gears") as stage:
            proofs = _prove(work, planned, work.rewritten.exported_twin, stage)
            stage.result(*_gears_summary(proofs))
    with work.progress.stage("onnx") as stage, disk_errors(work.folder):
        files, weights = _write_files(work, planned, stage)
        graphs = f"{len(planned)} graph{'' if len(planned) == 1 else 's'}"
        stage.result(f"{graphs} and {size(weights)} of float16 weights, {SCRIPT}")
    buckets = [graph.bucket for graph in planned]
    return Built(
        files=files,
        fields={
            "context_limit": planned[0].capacity,
            "prefill_chunk": max(bucket.length for bucket in buckets if bucket.kind == "prefill"),
            "max_batch": planned[0].rows,
            "kv": KvCache(work.request.kv_dtype),
            "functions": ("main",),
            "phases": bucket_phases(buckets, 1),
            "code_file": None,
            "weights": None,
            "cpu": Cpu("any", ()),
            "graphs": tuple(
                StaticGraph(graph.kind, graph.bucket.length, 0, f"{graph.name}.onnx", GEARS, WEIGHTS)
                for graph in planned
            ),
            "executes_on": CAPS.executes_on,
        },
        weights=weights,
        report={"gears": [_gear_report(proof) for proof in proofs], "npu": NEVER_RUN},
        notes=(f"run in ONNX Runtime, {NEVER_RUN}", f"its own weights not run here, {NEVER_RUN}"),
    )


def _prove(work: Work[AscendRequest], planned: Sequence[GearGraph], original: Program, stage: Stage) -> list[GearProof]:
    proofs: list[GearProof] = []
    total = sum(len(graph.gears) for graph in planned)
    for graph in planned:

        def make(graph: GearGraph = graph) -> list[GraphPass]:
            passes = [*common_passes(), *gear_passes(graph.cache_rows())]
            return [graph_pass for graph_pass in passes if graph_pass.name not in work.request.disable]

        stage.progress(len(proofs), total, "gears")
        sizes = [GearEntry(gear.batch, gear.length) for gear in graph.gears]
        cache = (graph.rows, graph.capacity)
        proofs += prove_gears(graph.name, graph.kind, sizes, original, make, cache, MOST_GEAR_BYTES)
    return proofs


def _gears_summary(proofs: Sequence[GearProof]) -> tuple[str, str]:
    found = [proof for proof in proofs if proof.deviation is not None]
    left_out = f"; {len(proofs) - len(found)} too large to run here" if len(found) < len(proofs) else ""
    if not found:
        return f"none was run{left_out}", "not run"
    worst = max(found, key=lambda proof: proof.deviation or 0.0)
    where = f"{worst.graph} {worst.gear.batch} x {worst.gear.length}"
    return f"worst {worst.deviation:.1e} at {where}, on the twin against the export{left_out}", f"{len(found)} proven"


def _gear_report(proof: GearProof) -> dict[str, Any]:
    sizes = {"batch": proof.gear.batch, "length": proof.gear.length}
    return {"graph": proof.graph, **sizes, "deviation": proof.deviation, "not_run": proof.not_run or None}


def _write_files(
    work: Work[AscendRequest], planned: Sequence[GearGraph], stage: Stage
) -> tuple[dict[str, Path | bytes], int]:
    """ONNX files and their weights, scripts and configuration; and the bytes of the weights."""
    config, soc = work.config, work.request.soc_version
    programs = {graph.name: work.rewritten.ranks[graph.bucket][0] for graph in planned}
    unique = {name: tensor for program in programs.values() for name, tensor in program.weights.items()}
    total, done = sum(math.prod(tensor.shape) for tensor in unique.values()), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        stage.progress(min(done, total), total, "parameters")

    with (work.folder / WEIGHTS).open("wb") as stream:
        weights = SharedWeights(stream, advance)
        for name, program in programs.items():
            write_onnx(program, work.folder / f"{name}.onnx", weights)
        nbytes = stream.tell()
    files: dict[str, Path | bytes] = {
        name: work.folder / name for name in (WEIGHTS, *(f"{name}.onnx" for name in programs))
    }
    files |= {f"{graph.name}.ini": ge_config(graph, config, soc).encode() for graph in planned}
    files[SCRIPT] = atc_script(planned, config, soc).encode()
    files[GEARS] = gears_text(_gears(planned, config)).encode()
    return files, nbytes


def _gears(planned: Sequence[GearGraph], config: ModelConfig) -> Gears:
    entries = tuple(
        GraphEntry(
            f"{graph.name}.onnx",
            graph.kind,
            tuple(GearEntry(gear.batch, gear.length) for gear in graph.gears),
            graph.inputs(config),
        )
        for graph in planned
    )
    return Gears(FORMAT, 1, planned[0].rows, planned[0].capacity, entries)
