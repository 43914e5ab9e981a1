"""Ascend's artifact through ATC: ONNX files with shared weights, atc.sh, GE's configuration, and every gear checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from xamc.artifact.gears import FORMAT, GEARS, GearEntry, Gears, GraphEntry, gears_text
from xamc.artifact.manifest import HOST_ONNXRUNTIME, MANIFEST, Cpu, KvCache, Manifest, StaticGraph
from xamc.artifact.manifest_file import dumps
from xamc.artifact.publish import ArtifactWriter
from xamc.artifact.staging import disk_errors
from xamc.compiler.stages import golden as golden_stage
from xamc.compiler.stages import static_summary, summary
from xamc.compiler.stages.job import Job
from xamc.compiler.stages.publish import add_golden, common_fields
from xamc.compiler.stages.small_weights import SMALL_WEIGHTS
from xamc.compiler.stages.static_parts import StaticParts, static_phases
from xamc.compiler.stages.static_passes import StaticGraphs
from xamc.ir.onnx_weights import WEIGHTS, SharedWeights, write_onnx
from xamc.ir.program import Program
from xamc.jobs.progress import Progress, Stage, size
from xamc.model.config import ModelConfig
from xamc.passes.protocol import GraphPass
from xamc.passes.runner import select_passes
from xamc.targets.ascend.gear_proof import GearProof, prove_gears
from xamc.targets.ascend.gears import GearGraph, graphs_of
from xamc.targets.ascend.passes import gear_passes
from xamc.targets.ascend.plan import MOST_GEAR_BYTES
from xamc.targets.ascend.scripts import NEVER_RUN, SCRIPT, atc_script, ge_config


def write_ascend(
    job: Job,
    parts: StaticParts,
    graphs: StaticGraphs,
    original: Program | None,
    progress: Progress,
    writer: ArtifactWriter,
) -> tuple[Manifest, Mapping[str, Any]]:
    """The gears' proofs, all files, and the artifact; returns manifest and report.

    Args:
        job: the compile.
        parts: what the road before has found out.
        graphs: the rewritten program of every bucket.
        original: the exported twin, or None where nothing is proven.
        progress: where the stages show.
        writer: of the artifact.

    Raises:
        XamcError: what a stage finds; nothing is published then.
    """
    planned = graphs_of(parts.request)
    proofs: list[GearProof] = []
    if original is not None:
        with progress.stage("gears") as stage:
            proofs = _prove(parts, planned, original, stage)
            stage.result(*_gears_summary(proofs))
    with progress.stage("onnx") as stage, disk_errors(writer.destination):
        nbytes = _write_files(parts, planned, graphs, writer, stage)
        stage.result(f"{_plural(len(planned), 'graph')} and {size(nbytes)} of float16 weights, {SCRIPT}")
    with progress.stage("publish") as stage:
        manifest, golden, distance = _manifest(job, parts, planned, writer), None, None
        if parts.spec.verify.final or nbytes <= SMALL_WEIGHTS:
            golden, distance = golden_stage.record(job, parts.spec, parts.checkpoint, manifest, writer.folder, "")
            manifest = replace(manifest, golden=add_golden(writer, golden))
        checked = "run in ONNX Runtime" if golden is not None else "its own weights not run here"
        stage.result(f"{summary.published(writer.nbytes, '', distance)}, {checked}, {NEVER_RUN}")
        report = static_summary.report(progress, stage, graphs, golden, distance)
        report |= {"gears": [_gear_report(proof) for proof in proofs], "npu": NEVER_RUN}
        report |= {"values": parts.values, "made": job.cache.made}
        return writer.publish(manifest, report), report


def _prove(parts: StaticParts, planned: Sequence[GearGraph], original: Program, stage: Stage) -> list[GearProof]:
    proofs: list[GearProof] = []
    total = sum(len(graph.gears) for graph in planned)
    for graph in planned:

        def make(graph: GearGraph = graph) -> list[GraphPass]:
            passes = [*parts.passes.common, *gear_passes(graph.cache_rows())]
            return select_passes(passes, parts.spec.passes.disable, parts.passes.names, parts.passes.required)

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
    parts: StaticParts, planned: Sequence[GearGraph], graphs: StaticGraphs, writer: ArtifactWriter, stage: Stage
) -> int:
    """ONNX files and their weights, scripts and configuration; returns bytes of the weights."""
    assert parts.request.atc is not None
    config, soc = parts.checkpoint.config, parts.request.atc.soc_version
    programs = {graph.name: graphs.ranks[graph.bucket][0] for graph in planned}
    unique = {name: tensor for program in programs.values() for name, tensor in program.weights.items()}
    total, done = sum(math.prod(tensor.shape) for tensor in unique.values()), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        stage.progress(min(done, total), total, "parameters")

    with (writer.folder / WEIGHTS).open("wb") as stream:
        weights = SharedWeights(stream, advance)
        for name, program in programs.items():
            write_onnx(program, writer.folder / f"{name}.onnx", weights)
        nbytes = stream.tell()
    for name in (WEIGHTS, *(f"{name}.onnx" for name in programs)):
        writer.seal(name)
    for graph in planned:
        writer.add_bytes(f"{graph.name}.ini", ge_config(graph, config, soc).encode())
    writer.add_bytes(SCRIPT, atc_script(planned, config, soc).encode())
    writer.add_bytes(GEARS, gears_text(_gears(planned, config)).encode())
    return nbytes


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


def _manifest(job: Job, parts: StaticParts, planned: Sequence[GearGraph], writer: ArtifactWriter) -> Manifest:
    buckets = [graph.bucket for graph in planned]
    manifest = Manifest(
        **common_fields(job, parts.spec, parts.checkpoint, writer),
        context_limit=planned[0].capacity,
        prefill_chunk=max(bucket.length for bucket in buckets if bucket.kind == "prefill"),
        max_batch=planned[0].rows,
        kv=KvCache(parts.request.kv_dtype),
        functions=("main",),
        phases=static_phases(buckets, 1),
        code_file=None,
        weights=None,
        cpu=Cpu("any", ()),
        quantization=parts.quantization,
        graphs=tuple(
            StaticGraph(graph.kind, graph.bucket.length, 0, f"{graph.name}.onnx", GEARS, WEIGHTS) for graph in planned
        ),
        executes_on=HOST_ONNXRUNTIME,
    )
    (writer.folder / MANIFEST).write_text(dumps(manifest), encoding="utf-8")
    return manifest


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
