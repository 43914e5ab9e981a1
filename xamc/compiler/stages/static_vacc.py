"""VACC's artifact: code, parameters and a description for every bucket and rank, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from xamc.artifact.manifest import HOST_SIMULATOR, MANIFEST, Cpu, KvCache, Manifest, StaticGraph
from xamc.artifact.manifest_file import dumps
from xamc.artifact.publish import ArtifactWriter
from xamc.compiler.stages import golden as golden_stage
from xamc.compiler.stages import static_summary, summary
from xamc.compiler.stages.job import Job
from xamc.compiler.stages.publish import add_golden, common_fields
from xamc.compiler.stages.small_weights import SMALL_WEIGHTS
from xamc.compiler.stages.static_parts import StaticParts, static_phases
from xamc.compiler.stages.static_passes import StaticGraphs
from xamc.ir.weights.fingerprint import fingerprint, reading_modules
from xamc.ir.weights.lazy import LazyTensor
from xamc.jobs.cache import stage_key
from xamc.jobs.progress import Progress, Stage
from xamc.model.bucket import Bucket
from xamc.targets.kernels.isa import Isa
from xamc.targets.request import TargetRequest
from xamc.targets.vacc.bucket_code import GeneratedBucket, generate_bucket
from xamc.targets.vacc.names import GRAPH, ISA, LIBRARY, PARAMS
from xamc.targets.vacc.params_file import ParamsFile, write_params_files

_Place = tuple[Bucket, int]
"""A bucket and a rank."""

_WRITING = "xamc.targets.vacc.params_file:write_params_files"


def write_vacc(
    job: Job, parts: StaticParts, graphs: StaticGraphs, progress: Progress, writer: ArtifactWriter
) -> tuple[Manifest, Mapping[str, Any]]:
    """Code, parameters and the artifact of every bucket and rank; returns manifest and report.

    Raises:
        XamcError: what a stage finds; nothing is published then.
    """
    spec, request = parts.spec, parts.request
    with progress.stage("codegen") as stage:
        generated = _generate(job, graphs, spec.name)
        stage.result(static_summary.codegen(generated, request.tp), summary.cached(job.cache, "codegen"))

    with progress.stage("weights") as stage:
        files = _write_parameters(job, request, generated, progress, stage)
        stage.result(static_summary.weights(files), summary.cached(job.cache, "weights"))

    with progress.stage("publish") as stage:
        manifest, golden, distance = _fill(job, parts, generated, files, writer), None, None
        not_run = golden_stage.why_not_run(manifest.cpu)
        small = sum(path.stat().st_size for path in set(files.values())) <= SMALL_WEIGHTS
        if (spec.verify.final or small) and not request.is_embedding:
            golden, distance = golden_stage.record(job, spec, parts.checkpoint, manifest, writer.folder, not_run)
            manifest = replace(manifest, golden=add_golden(writer, golden))
        stage.result(summary.published(writer.nbytes, not_run, distance) + ", runs in the host's simulator")
        summary.not_run(progress, not_run)
        seconds = {bucket.name: dict(code.seconds) for bucket, code in generated.items()}
        report = static_summary.report(progress, stage, graphs, golden, distance) | {
            "codegen_seconds": seconds,
            "values": parts.values,
            "made": job.cache.made,
        }
        return writer.publish(manifest, report), report


def _generate(job: Job, graphs: StaticGraphs, name: str) -> dict[Bucket, GeneratedBucket]:
    """Code of every bucket, as many at a time as the job has workers."""

    def one(bucket: Bucket) -> GeneratedBucket:
        return generate_bucket(graphs.ranks[bucket], bucket, job.cache, job.options.dump_ir, name=name)

    with ThreadPoolExecutor(job.workers) as pool:
        return dict(zip(graphs.ranks, pool.map(one, graphs.ranks), strict=True))


def _write_parameters(
    job: Job, request: TargetRequest, generated: Mapping[Bucket, GeneratedBucket], progress: Progress, stage: Stage
) -> dict[_Place, Path]:
    """The parameter file of every bucket and rank; with `merge_params` the buckets of a rank share theirs."""
    wanted: dict[_Place, dict[str, LazyTensor]] = {}
    for bucket, code in generated.items():
        for rank, tensors in enumerate(code.params):
            wanted[bucket, rank] = dict(tensors)
    prints = {
        place: {name: fingerprint(tensor) for name, tensor in tensors.items()} for place, tensors in wanted.items()
    }
    if request.merge_params:
        _merge(wanted, prints, progress)
    keys = {
        place: stage_key(
            "weights",
            __name__,
            (_WRITING, *reading_modules(wanted[place].values())),
            {"tensors": list(map(list, tensors.items()))},
        )
        for place, tensors in prints.items()
    }
    unique = {str(key): place for place, key in keys.items()}
    total = sum(ParamsFile(Path(), wanted[place]).parameters for place in unique.values())
    done = 0

    def advance(parameters: int) -> None:
        nonlocal done
        done += parameters
        stage.progress(done, total, "parameters")

    written: dict[str, Path] = {}
    for name, place in unique.items():
        key, tensors = keys[place], wanted[place]

        def build(folder: Path, tensors: Mapping[str, LazyTensor] = tensors) -> None:
            file = ParamsFile(folder / PARAMS, tensors)
            # a process costs half a second to start: one is enough for a small model
            workers = job.workers if file.parameters > 50_000_000 else 1
            write_params_files([file], workers, advance)

        written[name] = (job.cache.get(key) or job.cache.publish(key, build)) / PARAMS
    return {place: written[str(key)] for place, key in keys.items()}


def _merge(
    wanted: dict[_Place, dict[str, LazyTensor]], prints: dict[_Place, dict[str, str]], progress: Progress
) -> None:
    """Gives the buckets of a rank one file's tensors, as far as they agree about every name they have in common.

    They need not: with dynamic NTK scaling a graph that is longer than `max_position_embeddings` has RoPE tables of its
    own. A bucket joins the first ones that it agrees with; both arguments are changed in place.
    """
    groups: dict[int, list[list[_Place]]] = {}
    differing: dict[str, None] = {}
    for place, mine in prints.items():
        of_rank = groups.setdefault(place[1], [])
        for group in of_rank:
            theirs = prints[group[0]]
            unlike = [name for name in mine if theirs.get(name, mine[name]) != mine[name]]
            differing.update(dict.fromkeys(unlike))
            if not unlike:
                group.append(place)
                tensors, merged = wanted[group[0]] | wanted[place], theirs | mine
                for member in group:
                    wanted[member], prints[member] = tensors, merged
                break
        else:
            of_rank.append([place])
    if differing:
        names = ", ".join(list(differing)[:4]) + (", ..." if len(differing) > 4 else "")
        files = [" and ".join(bucket.name for bucket, _ in group) for group in groups[0]]
        progress.warn(
            f"backend.merge_params: graphs of different lengths need different {names}, so their parameters are in "
            f"{len(files)} files per rank: {'; '.join(files)}"
        )


def _fill(
    job: Job,
    parts: StaticParts,
    generated: Mapping[Bucket, GeneratedBucket],
    files: Mapping[_Place, Path],
    writer: ArtifactWriter,
) -> Manifest:
    """Adds the three files of every bucket and rank, and a manifest beside them, so that the folder can be run.

    What several folders hold, ranks' code and merged parameters, is there once: all but the first are hard links to it.
    """
    graphs = []
    placed: dict[Path, Path] = {}
    for bucket, code in generated.items():
        for rank, text in enumerate(code.graphs):
            folder = f"{bucket.name}_rank{rank}"
            params = files[bucket, rank]
            for path, name in ((code.code, LIBRARY), (params, PARAMS)):
                known = job.cache.digests(path.parent).get(path.name)
                # not to the cache's file, which may lie on another file system and would be copied each time
                writer.add_file(f"{folder}/{name}", placed.get(path, path), known)
                placed.setdefault(path, writer.folder / folder / name)
            writer.add_bytes(f"{folder}/{GRAPH}", text.encode())
            names = (f"{folder}/{name}" for name in (LIBRARY, GRAPH, PARAMS))
            graphs.append(StaticGraph(bucket.kind, bucket.length, rank, *names))
    request, isa = parts.request, Isa.by_name(ISA)
    manifest = Manifest(
        **common_fields(job, parts.spec, parts.checkpoint, writer),
        context_limit=max(bucket.length for bucket in generated),
        prefill_chunk=max(bucket.length for bucket in generated if bucket.kind == "prefill"),
        max_batch=1,
        kv=KvCache(request.kv_dtype),
        functions=("main",),
        phases=static_phases(list(generated), request.tp),
        code_file=None,
        weights=None,
        cpu=Cpu(isa.name, isa.cpu_flags),
        quantization=parts.quantization,
        ranks=request.tp,
        graphs=tuple(graphs),
        executes_on=HOST_SIMULATOR,
    )
    (writer.folder / MANIFEST).write_text(dumps(manifest), encoding="utf-8")
    return manifest
