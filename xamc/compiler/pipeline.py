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
from xamc.compiler.plan.files import planned_files
from xamc.compiler.spec import key_uses, load_spec
from xamc.compiler.spec.locations import LocatedErrors
from xamc.compiler.spec.model_kind import require_supported
from xamc.compiler.stages import golden as golden_stage
from xamc.compiler.stages import summary
from xamc.compiler.stages.context import context_lengths, length_warnings
from xamc.compiler.stages.export import export, twin_group
from xamc.compiler.stages.graph_road import compile_graph
from xamc.compiler.stages.group_sizes import require_group_size
from xamc.compiler.stages.job import CompileOptions, Job, packing_workers
from xamc.compiler.stages.pass_names import require_pass_names
from xamc.compiler.stages.passes import check_own_passes, rewrite
from xamc.compiler.stages.publish import Parts, add_golden, fill
from xamc.compiler.stages.real_weights import look_at_cache, warn_of_small_weights
from xamc.compiler.stages.small_weights import SMALL_WEIGHTS
from xamc.compiler.stages.static_parts import StaticParts
from xamc.compiler.stages.static_request import static_request
from xamc.compiler.stages.static_road import compile_static
from xamc.compiler.stages.target_request import target_request
from xamc.compiler.stages.weights import write_weights
from xamc.jobs.cache import StageCache
from xamc.jobs.memory import MemorySampler
from xamc.jobs.progress import Progress
from xamc.targets.registry import StaticTarget
from xamc.targets.registry import target as target_named


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
        if not loaded.spec.frontend.is_language_model:
            return Compiled(*compile_graph(loaded, options, progress))

        with progress.stage("spec") as stage:
            spec = loaded.spec
            summary.spec_warnings(progress, loaded)
            target = target_named(spec.backend.type)
            request, quantization = target_request(spec, target.caps, options.allow_rtn)
            if isinstance(target, StaticTarget):
                request = static_request(spec, target.caps, request)
            target.check(request)
            require_pass_names(spec, target, request)
            destination = options.output or spec.workspace.path / spec.name
            check_replaceable(destination)
            machine = request.atc.soc_version if request.atc is not None else ", ".join(spec.backend.cpu_levels)
            progress.header(spec.name, f"{spec.backend.type} ({machine})")
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
                planned = planned_files(checkpoint, spec, request, target.caps)
                require_room_for(spec.name, planned, destination.parent, options.use_cache)
                recording = Recording.of(spec, request, checkpoint, planned.weights, target.caps)
                context_limit, chunk = context_lengths(spec, checkpoint.config)
                summary.warn_all(progress, length_warnings(spec, checkpoint.config, request))
                warn_of_small_weights(progress, checkpoint, request)
                stage.result(summary.frontend(checkpoint))

            with progress.stage("export") as stage:
                exported = export(job, checkpoint, spec.verify.passes == "each", twin_group(request), request.tp)
                stage.result(summary.export(checkpoint.config), summary.cached(cache, "export"))

            if isinstance(target, StaticTarget):
                with ArtifactWriter(destination) as writer:
                    static = StaticParts(spec, checkpoint, request, quantization, target.static_passes(request))
                    manifest, report = compile_static(job, static, exported, progress, writer)
                recording.keep(progress.stages, cache)
                return Compiled(destination, manifest, report)

            with progress.stage("passes") as stage:
                passes = target.graph_passes(request)
                rewritten = rewrite(job, exported, passes, spec.passes, target.own_passes, target.required_passes)
                stage.result(*summary.passes(rewritten))

            values = look_at_cache(job, spec, checkpoint, request.kv_dtype, progress)
            tuned = None
            if request.tune and target.tune is not None:
                with progress.stage("tune") as stage:
                    tuned = target.tune(rewritten.program, request, cache, stage.progress)
                    request = replace(request, tiles=tuned.choice)
                    stage.result(*summary.tuned(tuned))
                for kernel in tuned.faster:
                    progress.say(f" tuned: {kernel}")

            with progress.stage("codegen") as stage:
                generated = target.generate(rewritten.program, request, rewritten.twin, cache, options.dump_ir)
                check_own_passes(spec.passes, generated.passes)
                stage.result(*summary.codegen(generated, cache))

            with progress.stage("weights") as stage:
                weights = write_weights(job, generated, stage)
                stage.result(summary.weights(generated, weights), summary.cached(cache, "weights"))

            with progress.stage("publish") as stage, ArtifactWriter(destination) as writer:
                parts = Parts(spec, checkpoint, request, quantization, generated, weights, context_limit, chunk)
                manifest, golden, distance = fill(job, parts, writer), None, None
                not_run = golden_stage.why_not_run(*manifest.cpus)
                if spec.verify.final or weights.table.nbytes <= SMALL_WEIGHTS:
                    golden, distance = golden_stage.record(job, spec, checkpoint, manifest, writer.folder, not_run)
                    manifest = replace(manifest, golden=add_golden(writer, golden))
                stage.result(summary.published(writer.nbytes, not_run, distance))
                summary.not_run(progress, not_run)
                report = summary.report(progress, stage, rewritten, generated, golden, distance, tuned)
                report |= {"values": values, "made": cache.made}
                manifest = writer.publish(manifest, report)
            recording.keep(progress.stages, cache)
        return Compiled(destination, manifest, report)
