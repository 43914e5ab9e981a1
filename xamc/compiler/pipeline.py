"""The compiler on one screen: from a spec to a published artifact, stage by stage."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from xamc.artifact.manifest import Manifest
from xamc.artifact.onnx_manifest import OnnxManifest
from xamc.artifact.publish import ArtifactWriter, check_replaceable
from xamc.artifact.staging import full_disk_errors, require_writable
from xamc.compiler.frontends import open_checkpoint
from xamc.compiler.plan.compile_times import Recording
from xamc.compiler.plan.disk_space import require_room_for
from xamc.compiler.plan.files import plan_for_target
from xamc.compiler.spec import LoadedSpec, key_uses, load_spec
from xamc.compiler.spec.locations import LocatedErrors
from xamc.compiler.spec.model_kind import require_supported
from xamc.compiler.stages import golden as golden_stage
from xamc.compiler.stages import summary
from xamc.compiler.stages.context import context_lengths, length_warnings
from xamc.compiler.stages.export import export, twin_group
from xamc.compiler.stages.group_sizes import require_group_size
from xamc.compiler.stages.job import CompileOptions, Job, packing_workers
from xamc.compiler.stages.kv_scales import calibrated_scales
from xamc.compiler.stages.onnx_route import compile_onnx_model
from xamc.compiler.stages.publish import add_golden, fill
from xamc.compiler.stages.real_weights import look_at_values, warn_of_small_weights
from xamc.compiler.stages.small_weights import SMALL_WEIGHTS
from xamc.compiler.stages.target_options import target_options
from xamc.jobs.cache import StageCache
from xamc.jobs.memory import MemorySampler
from xamc.jobs.progress import Progress
from xamc.passes.runner import require_known_names
from xamc.targets.registry import target as target_named
from xamc.targets.target import Work
from xamc.verify.driver import rewrite


@dataclass(frozen=True)
class Compiled:
    """A finished compile: where the artifact is, its manifest, and the build report (report.json)."""

    path: Path
    manifest: Manifest | OnnxManifest
    report: Mapping[str, Any]


def compile_spec(
    source: Path | str | Mapping[str, Any],
    overrides: Sequence[str] = (),
    options: CompileOptions | None = None,
    progress: Progress | None = None,
) -> Compiled:
    """Compiles a build spec.

    Args:
        source: a YAML file, or the same as a mapping.
        overrides: ``key.path=value`` strings, as of ``--set``.
        options: what the command line adds.
        progress: where the stage table goes; None prints nothing.

    Raises:
        XamcError: its class says whose fault it is; nothing is left half-published.
    """
    options = options or CompileOptions()
    with MemorySampler() as sampler, LocatedErrors() as located, full_disk_errors(Path(tempfile.gettempdir())):
        progress = progress or Progress(Console(quiet=True))
        progress.sampler = progress.sampler or sampler
        located.loaded = loaded = load_spec(source, overrides)
        require_supported(loaded.spec)
        route = _compile_language_model if loaded.spec.frontend.is_language_model else compile_onnx_model
        return Compiled(*route(loaded, options, progress))


def _compile_language_model(
    loaded: LoadedSpec, options: CompileOptions, progress: Progress
) -> tuple[Path, Manifest, Mapping[str, Any]]:
    spec = loaded.spec
    with progress.stage("spec") as stage:
        summary.spec_warnings(progress, loaded)
        target = target_named(spec.backend.type)
        asked, quantization = target_options(spec, target.caps, options.allow_rtn)
        request = target.request(asked)
        pipeline = target.passes(request)
        require_known_names(spec.passes.disable, spec.passes.expect, pipeline.names, pipeline.required)
        destination = options.output or spec.workspace.path / spec.name
        check_replaceable(destination)
        machine = f" ({request.machine})" if request.machine else ""
        progress.header(spec.name, f"{spec.backend.type}{machine}")
        summary.quantization_warning(progress, quantization)
        stage.result(summary.spec(key_uses(loaded, spec.backend.type)))

    require_writable(destination.parent)
    with StageCache(destination.parent, enabled=options.use_cache, warn=progress.warn) as cache:
        job = Job(options, cache, progress, packing_workers(spec.workspace.workers))
        if options.dump_ir is not None:
            require_writable(options.dump_ir)

        with progress.stage("frontend") as stage:
            checkpoint = open_checkpoint(spec.frontend.checkpoint, spec.frontend.type, options.allow_pickle)
            summary.warn_all(progress, checkpoint.warnings)
            require_group_size(checkpoint, request.quantize)
            planned = plan_for_target(target, request, spec, checkpoint, in_full=False)
            require_room_for(spec.name, planned, destination.parent, options.use_cache)
            recording = Recording.of(spec, request, checkpoint, planned)
            context_limit, chunk = context_lengths(spec, checkpoint.config)
            summary.warn_all(progress, length_warnings(spec, checkpoint.config))
            warn_of_small_weights(progress, checkpoint, request)
            stage.result(summary.frontend(checkpoint))

        with progress.stage("export") as stage:
            exported = export(job, checkpoint, spec.verify.passes == "each", twin_group(request), request.tp)
            stage.result(summary.export(checkpoint.config), cache.state("export"))

        scales = calibrated_scales(job, spec, checkpoint, quantization)
        values = look_at_values(job, spec, checkpoint, request, pipeline, scales)

        with progress.stage("passes") as stage:
            rewritten = rewrite(
                exported.program,
                exported.twin,
                pipeline,
                disable=spec.passes.disable,
                expect=spec.passes.expect,
                kv_scales=scales,
                twin_seconds=exported.twin_seconds,
                dump=job.dump if options.dump_ir is not None else None,
            )
            stage.result(*rewritten.summary())

        with ArtifactWriter(destination) as writer:
            built = target.build(
                Work(
                    name=spec.name,
                    request=request,
                    config=checkpoint.config,
                    rewritten=rewritten,
                    context_limit=context_limit,
                    prefill_chunk=chunk,
                    max_batch=spec.runtime.max_batch,
                    expect=spec.passes.expect,
                    folder=writer.folder,
                    cache=cache,
                    progress=progress,
                    workers=job.workers,
                    dump=options.dump_ir,
                )
            )
            with progress.stage("publish") as stage:
                manifest = fill(job, spec, checkpoint, quantization, built, writer)
                golden, distance = None, None
                not_run = golden_stage.why_not_run(*manifest.cpus)
                if built.answers and (spec.verify.final or built.weights <= SMALL_WEIGHTS):
                    golden, distance = golden_stage.record(job, spec, checkpoint, manifest, writer.folder, not_run)
                    manifest = replace(manifest, golden=add_golden(writer, golden))
                note = built.notes[golden is None]
                stage.result(summary.published(writer.nbytes, not_run, distance) + (f", {note}" if note else ""))
                summary.not_run(progress, not_run)
                report = summary.report(progress, stage, rewritten, built, golden, distance)
                report |= {"values": values, "made": cache.made}
                manifest = writer.publish(manifest, report)
        recording.keep(progress.stages, cache)
    return destination, manifest, report
