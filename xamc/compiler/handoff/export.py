"""The hand-off on one screen: from a spec to a folder for a machine with the vendor's SDK."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from xamc.artifact.publish import portable_spec
from xamc.artifact.staging import disk_errors, require_writable
from xamc.compiler.frontends import Checkpoint
from xamc.compiler.handoff.assumptions import LLAMA as LLAMA_RESTS_ON
from xamc.compiler.handoff.assumptions import ONNX as ONNX_RESTS_ON
from xamc.compiler.handoff.assumptions import stated
from xamc.compiler.handoff.facts import HandoffFacts, LlamaRoute, OnnxRoute
from xamc.compiler.handoff.folder import HandoffWriter, check_replaceable
from xamc.compiler.handoff.graphs import OnnxDtype, handoff_pipeline
from xamc.compiler.handoff.llama_checkpoint import OLDEST_TRANSFORMERS, LlamaCheckpoint, StoredDtype, as_llama
from xamc.compiler.handoff.readme import readme
from xamc.compiler.handoff.readme_en import ENGLISH
from xamc.compiler.handoff.readme_zh import CHINESE
from xamc.compiler.handoff.safetensors_shards import tensor_bytes, write_shards
from xamc.compiler.handoff.source import load_source
from xamc.compiler.handoff.tokenizer_files import write_tokenizer
from xamc.compiler.handoff.vamc_file import llama_build, onnx_build, require_vamc_spec, write_vamc
from xamc.compiler.spec import LoadedSpec, Spec
from xamc.compiler.spec.locations import LocatedErrors
from xamc.compiler.stages import summary
from xamc.compiler.stages.export import export
from xamc.compiler.stages.job import CompileOptions, Job, packing_workers
from xamc.ir.onnx_weights import WEIGHTS, SharedWeights, input_shapes, weight_bytes, write_onnx
from xamc.ir.program import Program
from xamc.jobs.cache import StageCache
from xamc.jobs.memory import MemorySampler
from xamc.jobs.progress import Progress, size
from xamc.model.bucket import Bucket
from xamc.passes.runner import require_known_names
from xamc.verify.driver import Rewritten, rewrite

Route = Literal["llama", "onnx"]
ROUTES: tuple[Route, ...] = ("llama", "onnx")
LLAMA, ONNX, BUILD = "llama", "onnx", "build.yaml"
_SHIPPED = Path(__file__).parent


@dataclass(frozen=True)
class HandoffOptions:
    """What the command line adds to a spec.

    Attributes:
        output: the folder; `workspace.path`/`name`-vamc when None.
        routes: which to write.
        dtype: how the Llama checkpoint stores weights.
        onnx_dtype: how the ONNX files store weight matrices.
        checkpoint: where the checkpoint of an artifact lies, or another than the spec's.
        dump_ir: folder for readable IR, or None.
        use_cache: whether an earlier export is used and a new one kept.
        allow_pickle: read a checkpoint's weights where they lie as pickles alone.
    """

    output: Path | None = None
    routes: tuple[Route, ...] = ROUTES
    dtype: StoredDtype = "float16"
    onnx_dtype: OnnxDtype = "float32"
    checkpoint: str | None = None
    dump_ir: Path | None = None
    use_cache: bool = True
    allow_pickle: bool = False


@dataclass(frozen=True)
class Handoff:
    """A finished hand-off: its folder, size and SHA-256 of every file, and what was done."""

    path: Path
    files: Mapping[str, Mapping[str, Any]]
    report: Mapping[str, Any]


def export_vamc(
    source: Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    options: HandoffOptions | None = None,
    progress: Progress | None = None,
) -> Handoff:
    """Writes the folder.

    Args:
        source: a build file for VACC, the same as a mapping, or an artifact's folder, with `options.checkpoint` where
            the artifact does not hold the model in 16 bits.
        overrides: ``key.path=value`` strings, as of ``--set``.
        options: what the command line adds.
        progress: where the stage table goes; None prints nothing.

    Raises:
        UnsupportedError: E1450 the model is not Llama-shaped, E1451 vamc's files can't say what the spec asks for.
        InputError: E1452 a spec for another target, E1453 the folder is not ours, E1454 the disk is too small.
    """
    options = options or HandoffOptions()
    progress = progress or Progress(Console(quiet=True))
    with MemorySampler() as sampler, LocatedErrors() as located:
        progress.sampler = progress.sampler or sampler
        with progress.stage("spec") as stage:
            origin = load_source(source, overrides, options.checkpoint)
            located.loaded = loaded = origin.loaded
            summary.spec_warnings(progress, loaded)
            require_vamc_spec(loaded)
            spec = loaded.spec
            if "onnx" in options.routes:
                names = handoff_pipeline(spec, options.onnx_dtype)
                require_known_names(spec.passes.disable, spec.passes.expect, names.names, names.required)
            destination = options.output or origin.folder / f"{spec.name}-vamc"
            check_replaceable(destination)
            require_writable(destination.parent)
            progress.header(spec.name, "hand-off for vamc")
            stage.result(f"{', '.join(options.routes)} for tp {spec.tp}")
        with progress.stage("frontend") as stage:
            checkpoint = origin.open(options.allow_pickle)
            longest = max((*spec.prefill_lengths, *spec.total_lengths))
            llama = as_llama(checkpoint, longest, options.dtype) if "llama" in options.routes else None
            inside = " of the artifact's float16" if origin.artifact else ""
            summary.warn_all(progress, checkpoint.warnings)
            stage.result(summary.frontend(checkpoint) + inside)
        graphs = _graphs(loaded, checkpoint, destination, options, progress) if "onnx" in options.routes else None
        with HandoffWriter(destination) as writer, disk_errors(writer.destination):
            writer.require_room(_room(llama, graphs))
            facts = HandoffFacts(
                name=spec.name,
                workspace=str(loaded.values.get("workspace", {}).get("path") or "./vacc_deploy"),
                prefill_lengths=spec.prefill_lengths,
                total_lengths=spec.total_lengths,
                llama=_write_llama(writer.folder, loaded, checkpoint, llama, progress) if llama else None,
                onnx=_write_onnx(writer.folder, loaded, checkpoint, graphs, options, progress) if graphs else None,
                asked=_asked(spec),
                assumptions=stated((*(LLAMA_RESTS_ON if llama else ()), *(ONNX_RESTS_ON if graphs else ()))),
            )
            with progress.stage("publish") as stage:
                (writer.folder / "README.md").write_text(readme(facts, ENGLISH), encoding="utf-8")
                (writer.folder / "README.zh.md").write_text(readme(facts, CHINESE), encoding="utf-8")
                files = writer.publish(
                    {
                        "name": spec.name,
                        "model_type": checkpoint.config.model_type,
                        "roads": list(options.routes),
                        "spec": portable_spec(spec.to_dict() | {"source": None}),
                        "assumptions": [item.id for item in facts.assumptions],
                    }
                )
                stage.result(f"{len(files)} files, {size(sum(file['nbytes'] for file in files.values()))}")
    notes = facts.llama.notes if facts.llama else ()
    proofs = [{"name": p.name, "deviation": p.worst, "tolerance": p.tolerance} for p in graphs.proven] if graphs else []
    report = {"stages": progress.summary(), "warnings": list(progress.warnings), "notes": list(notes), "proofs": proofs}
    return Handoff(writer.destination, files, report)


def _graphs(
    loaded: LoadedSpec, checkpoint: Checkpoint, destination: Path, options: HandoffOptions, progress: Progress
) -> Rewritten:
    spec = loaded.spec
    compile_options = CompileOptions(dump_ir=options.dump_ir, use_cache=options.use_cache, output=destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    if options.dump_ir is not None:
        require_writable(options.dump_ir)
    with StageCache(destination.parent, enabled=options.use_cache, warn=progress.warn) as cache:
        job = Job(compile_options, cache, progress, packing_workers(spec.workspace.workers))
        with progress.stage("export") as stage:
            exported = export(job, checkpoint, spec.verify.passes == "each", 32)
            stage.result(summary.export(checkpoint.config), cache.state("export"))
        with progress.stage("passes") as stage:
            rewritten = rewrite(
                exported.program,
                exported.twin,
                handoff_pipeline(spec, options.onnx_dtype),
                disable=spec.passes.disable,
                expect=spec.passes.expect,
                dump=job.dump if options.dump_ir is not None else None,
            )
            stage.result(*rewritten.summary())
    return rewritten


def _programs(graphs: Rewritten) -> dict[Bucket, Program]:
    """The graphs, of the one rank that there is."""
    return {bucket: ranks[0] for bucket, ranks in graphs.ranks.items()}


def _asked(spec: Spec) -> tuple[str, ...]:
    quantize = spec.frontend.quantize
    tp = (f"tp: {spec.tp}",) if spec.tp > 1 else ()
    return (*tp, f"quantize.type: {quantize.type}") if quantize is not None and quantize.type else tp


def _room(llama: LlamaCheckpoint | None, graphs: Rewritten | None) -> int:
    """Bytes of everything large."""
    checkpoint = sum(map(tensor_bytes, llama.tensors.values())) if llama else 0
    return checkpoint + (weight_bytes(_programs(graphs).values()) if graphs else 0)


def _write_llama(
    folder: Path, loaded: LoadedSpec, checkpoint: Checkpoint, llama: LlamaCheckpoint, progress: Progress
) -> LlamaRoute:
    spec, target = loaded.spec, folder / LLAMA / "checkpoint"
    target.mkdir(parents=True)
    parameters = sum(math.prod(tensor.shape) for tensor in llama.tensors.values())
    with progress.stage("llama") as stage:
        files = write_shards(target, llama.tensors, advance=stage.counter(parameters, "parameters"))
        _, notes = write_tokenizer(target, checkpoint.tokenizer)
        _write_json(target / "config.json", llama.config)
        _write_json(target / "generation_config.json", llama.generation)
        wanted = llama.transformers if llama.transformers != OLDEST_TRANSFORMERS else None
        comment = f"{spec.name} as plain Llama; run `vamc compile {BUILD}` in this folder"
        write_vamc(folder / LLAMA / BUILD, llama_build(loaded, wanted), comment)
        shards = sum(file.endswith(".safetensors") for file in files)
        stage.result(f"{parameters / 1e6:.0f} M parameters in {_plural(shards, 'file')}")
    for note in (*llama.notes, *notes):
        progress.warn(note)
    dtype = str(llama.config["torch_dtype"])
    return LlamaRoute(
        BUILD, spec.tp, dtype, parameters, llama.transformers, checkpoint.config.model_type, (*llama.notes, *notes)
    )


def _write_onnx(
    folder: Path,
    loaded: LoadedSpec,
    checkpoint: Checkpoint,
    graphs: Rewritten,
    options: HandoffOptions,
    progress: Progress,
) -> OnnxRoute:
    spec, target = loaded.spec, folder / ONNX
    target.mkdir()
    workspace = str(loaded.values.get("workspace", {}).get("path") or "./vacc_deploy")
    programs = _programs(graphs)
    unique = {name: tensor for program in programs.values() for name, tensor in program.weights.items()}
    shapes: dict[str, Mapping[str, tuple[int, ...]]] = {}
    with progress.stage("onnx") as stage, (target / WEIGHTS).open("wb") as stream:
        weights = SharedWeights(stream, stage.counter(sum(math.prod(t.shape) for t in unique.values()), "parameters"))
        for bucket, program in programs.items():
            file = f"{bucket.name}.onnx"
            shapes[bucket.name] = input_shapes(program)
            write_onnx(program, target / file, weights)
            build = onnx_build(f"{spec.name}-{bucket.name}", file, shapes[bucket.name], workspace)
            write_vamc(target / f"build_{bucket.name}.yaml", build, f"static {bucket.kind} graph of {spec.name}, tp 1")
        if checkpoint.tokenizer:
            (target / "tokenizer").mkdir()
            write_tokenizer(target / "tokenizer", checkpoint.tokenizer)
        # run_onnx.py takes a text
        has_loop = bool(checkpoint.tokenizer) and any(bucket.kind == "decode" for bucket in programs)
        for script in ("check_onnx.py", *(("run_onnx.py",) if has_loop else ())):
            shutil.copyfile(_SHIPPED / script, target / script)
        _write_json(target / "model.json", _model_facts(checkpoint, tuple(programs)))
        stage.result(f"{len(shapes)} graphs, {size(stream.tell())} of {options.onnx_dtype} weights")
    return OnnxRoute(shapes, options.onnx_dtype, has_loop)


def _model_facts(checkpoint: Checkpoint, buckets: tuple[Bucket, ...]) -> dict[str, Any]:
    """model.json: what the loop has to know beside the graphs; the longest ones of each phase."""
    longest: dict[str, Bucket] = {}
    for bucket in sorted(buckets, key=lambda bucket: bucket.length):
        longest[bucket.kind] = bucket
    return {
        **{kind: f"{bucket.name}.onnx" for kind, bucket in longest.items()},
        "vocab_size": checkpoint.config.vocab_size,
        "eos_token_ids": list(checkpoint.config.eos_token_ids),
    }


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
