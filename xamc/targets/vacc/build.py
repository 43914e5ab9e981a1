"""VACC's artifact: code, parameters and a description for every bucket and rank, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from xamc.artifact.manifest import Cpu, KvCache, StaticGraph
from xamc.ir.weights.fingerprint import fingerprint, reading_modules
from xamc.ir.weights.lazy import LazyTensor
from xamc.jobs.cache import stage_key
from xamc.jobs.progress import Progress, Stage, size
from xamc.model.bucket import Bucket
from xamc.targets.buckets import bucket_phases
from xamc.targets.kernels.isa import Isa
from xamc.targets.target import Built, Work
from xamc.targets.vacc.bucket_code import GeneratedBucket, generate_bucket
from xamc.targets.vacc.caps import CAPS
from xamc.targets.vacc.names import GRAPH, ISA, LIBRARY, PARAMS
from xamc.targets.vacc.params_file import ParamsFile, write_params_files
from xamc.targets.vacc.request import VaccRequest

_Place = tuple[Bucket, int]
"""A bucket and a rank."""

_WRITING = "xamc.targets.vacc.params_file:write_params_files"


def build(work: Work[VaccRequest]) -> Built:
    """The stages `codegen` and `weights`: code, parameters and a description for every bucket and rank.

    Raises:
        XamcError: what a stage finds.
    """
    request = work.request
    with work.progress.stage("codegen") as stage:
        generated = _generate(work)
        names = ", ".join(bucket.name for bucket in generated)
        ranks = f"{request.tp} rank{'s' if request.tp > 1 else ''}"
        kernels = sum(len(code.kernels) for code in generated.values())
        text = f"{names} for {ranks}, {kernels} kernels, for the host's simulator"
        stage.result(text, work.cache.state("codegen"))
    with work.progress.stage("weights") as stage:
        files = _write_parameters(work, generated, stage)
        distinct = set(files.values())
        weights = sum(path.stat().st_size for path in distinct)
        stage.result(f"{size(weights)} in {len(distinct)} files", work.cache.state("weights"))
    content: dict[str, Path | bytes] = {}
    graphs = []
    for bucket, code in generated.items():
        for rank, text in enumerate(code.graphs):
            paths = [f"{bucket.name}_rank{rank}/{name}" for name in (LIBRARY, GRAPH, PARAMS)]
            content |= zip(paths, (code.code, text.encode(), files[bucket, rank]), strict=True)
            graphs.append(StaticGraph(bucket.kind, bucket.length, rank, *paths))
    isa = Isa.by_name(ISA)
    return Built(
        files=content,
        fields={
            "context_limit": max(bucket.length for bucket in generated),
            "prefill_chunk": max(bucket.length for bucket in generated if bucket.kind == "prefill"),
            "max_batch": 1,
            "kv": KvCache(request.kv_dtype),
            "functions": ("main",),
            "phases": bucket_phases(generated, request.tp),
            "code_file": None,
            "weights": None,
            "cpu": Cpu(isa.name, isa.cpu_flags),
            "ranks": request.tp,
            "graphs": tuple(graphs),
            "executes_on": CAPS.executes_on,
        },
        weights=weights,
        report={"codegen_seconds": {bucket.name: dict(code.seconds) for bucket, code in generated.items()}},
        answers=not request.is_embedding,
        notes=("runs in the host's simulator",) * 2,
    )


def _generate(work: Work[VaccRequest]) -> dict[Bucket, GeneratedBucket]:
    """Code of every bucket, as many at a time as there are workers."""
    ranks = work.rewritten.ranks

    def one(bucket: Bucket) -> GeneratedBucket:
        return generate_bucket(ranks[bucket], bucket, work.cache, work.dump, name=work.name)

    with ThreadPoolExecutor(work.workers) as pool:
        return dict(zip(ranks, pool.map(one, ranks), strict=True))


def _write_parameters(
    work: Work[VaccRequest], generated: Mapping[Bucket, GeneratedBucket], stage: Stage
) -> dict[_Place, Path]:
    """The parameter file of every bucket and rank; with `merge_params` the buckets of a rank share theirs."""
    wanted: dict[_Place, dict[str, LazyTensor]] = {}
    for bucket, code in generated.items():
        for rank, tensors in enumerate(code.params):
            wanted[bucket, rank] = dict(tensors)
    prints = {
        place: {name: fingerprint(tensor) for name, tensor in tensors.items()} for place, tensors in wanted.items()
    }
    if work.request.merge_params:
        _merge(wanted, prints, work.progress)
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
    advance = stage.counter(total, "parameters")
    written: dict[str, Path] = {}
    for name, place in unique.items():
        key, tensors = keys[place], wanted[place]

        def build(folder: Path, tensors: Mapping[str, LazyTensor] = tensors) -> None:
            file = ParamsFile(folder / PARAMS, tensors)
            # a process costs half a second to start: one is enough for a small model
            workers = work.workers if file.parameters > 50_000_000 else 1
            write_params_files([file], workers, advance)

        written[name] = (work.cache.get(key) or work.cache.publish(key, build)) / PARAMS
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
