"""From the export to an artifact of static graphs: the passes of every bucket, then what the target makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from xamc.artifact.manifest import Manifest
from xamc.artifact.publish import ArtifactWriter
from xamc.compiler.stages import real_weights, static_summary, summary
from xamc.compiler.stages.export import ExportedModel
from xamc.compiler.stages.job import Job
from xamc.compiler.stages.kv_scales import kv_scales
from xamc.compiler.stages.static_parts import StaticParts
from xamc.compiler.stages.static_passes import copy_program, rewrite_static
from xamc.ir.weights.kv_scales import KvScales
from xamc.jobs.progress import Progress
from xamc.verify.cache_rounding import CacheRounding

Written = tuple[Manifest, Mapping[str, Any]]


def compile_static(
    job: Job, parts: StaticParts, exported: ExportedModel, progress: Progress, writer: ArtifactWriter
) -> Written:
    """Passes, and the artifact of every bucket and rank; returns manifest and report.

    Raises:
        XamcError: what a stage finds; nothing is published then.
    """
    spec, request = parts.spec, parts.request
    scales = None
    if request.kv_dtype == "int8":
        with progress.stage("calibrate") as stage:
            scales = kv_scales(job, spec, parts.checkpoint)
            layers = parts.checkpoint.config.num_layers
            stage.result(f"keys and values of {layers} layers", summary.cached(job.cache, "kv_scales"))

    parts = replace(parts, values=_look(job, parts, scales, progress))
    # the passes rewrite the twin in place; Ascend compares its gears with what transformers exports
    original = None if exported.twin is None else copy_program(exported.twin[0])
    with progress.stage("passes") as stage:
        graphs = rewrite_static(job, exported, parts.passes, spec.passes, scales)
        stage.result(*static_summary.passes(graphs))
    if spec.backend.type == "tvm_ascend":
        from xamc.compiler.stages.static_ascend import write_ascend

        return write_ascend(job, parts, graphs, original, progress, writer)
    from xamc.compiler.stages.static_vacc import write_vacc

    return write_vacc(job, parts, graphs, progress, writer)


def _look(job: Job, parts: StaticParts, scales: KvScales | None, progress: Progress) -> Mapping[str, Any] | None:
    """What the real weights do, for the report; None where they are not run.

    Raises:
        UnsupportedError: E1315, float16 can't hold the model's values.
    """
    kv_dtype = parts.request.kv_dtype
    with progress.stage("values") as stage:
        if not real_weights.are_run(parts.spec, parts.checkpoint):
            stage.result(real_weights.NOT_RUN, "not run")
            return None
        rounding = (
            CacheRounding(kv_dtype, scales, scales.unbiased_keys) if scales is not None else CacheRounding("float32")
        )
        observed = real_weights.look(job, parts.spec, parts.checkpoint, rounding)
        bucket = parts.passes.buckets[0]
        scaled = any(getattr(p, "scale_query", False) for p in parts.passes.of_bucket(bucket, bucket.length, None))
        real_weights.require_float16(observed, parts.spec.backend.type, scaled)
        stage.result(real_weights.in_words(observed, kv_dtype), summary.cached(job.cache, "real_weights"))
    real_weights.warn_of_cost(progress, observed, kv_dtype, "use float16, without frontend.quantize")
    return real_weights.report(observed)
