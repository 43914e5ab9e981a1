"""The stages of a compile with their times and memory, estimated from measured runs; the target's among them."""

from __future__ import annotations

from collections.abc import Iterator

from xamc.compiler.frontends import Checkpoint
from xamc.compiler.plan.files import is_run, planned_model
from xamc.compiler.spec import Spec
from xamc.compiler.stages.real_weights import NOT_RUN, PROMPTS, TOKENS, are_run
from xamc.targets.planned import BASE_BYTES, MIB, PlannedStage, TargetPlan
from xamc.targets.registry import CAPS

# Measured on 2 cores at 2.5 GHz, memory rounded up; see docs/benchmarks/scale.md.
_EXPORT_BYTES = 450 * MIB  # the exporting child: torch and a modeling file
_EXPORT_BYTES_PER_LAYER = 3 * MIB
_EXPORT_SECONDS, _EXPORT_SECONDS_PER_LAYER = 9.0, 0.85
_PASSES_SECONDS, _PASSES_SECONDS_PER_LAYER = 0.8, 0.03
_HASHED_BYTES_PER_SECOND = 1.1e9
_MULTIPLIED_PER_SECOND = 20e9  # products of the streamed model


def planned_stages(spec: Spec, checkpoint: Checkpoint, planned: TargetPlan) -> Iterator[PlannedStage]:
    """The stages of a compile that finds nothing in the stage cache, on a machine nothing is known of.

    Args:
        spec: the build file.
        checkpoint: the model.
        planned: what the target would write and take.
    """
    model, caps = planned_model(spec, checkpoint), CAPS[spec.backend.type]
    layers, proofs = model.config.num_layers, model.proofs
    yield PlannedStage("spec", "check the build file", 0.2, BASE_BYTES)
    yield PlannedStage("frontend", f"read headers of {len(checkpoint.files)} files", 0.2, BASE_BYTES)
    export = f"{layers} layers to ONNX" + (", and the twin" if proofs else "")
    seconds = (_EXPORT_SECONDS + _EXPORT_SECONDS_PER_LAYER * layers) * (1 if proofs else 0.6)
    yield PlannedStage("export", export, seconds, BASE_BYTES + _EXPORT_BYTES + _EXPORT_BYTES_PER_LAYER * layers)
    if caps.computes == "float16" or spec.runtime.kv_dtype == "int8":
        yield _values_stage(spec, checkpoint, model.parameters)
    what = "rewrite the graph" + (", prove each pass on the twin" if proofs else "")
    yield PlannedStage("passes", what, _PASSES_SECONDS + _PASSES_SECONDS_PER_LAYER * layers, BASE_BYTES + 50 * MIB)
    yield from planned.stages
    runs = is_run(spec, planned)
    seconds = 2.0 + (model.input_bytes + planned.weights) / _HASHED_BYTES_PER_SECOND
    seconds += planned.run_seconds if runs else 0.0
    peak = BASE_BYTES + (planned.run_bytes if runs else 0)
    yield PlannedStage("publish", "hash, run once, rename" if runs else "hash, rename", seconds, peak)


def _values_stage(spec: Spec, checkpoint: Checkpoint, parameters: int) -> PlannedStage:
    """The checkpoint's own weights over a few prompts: values beyond float16, and what an int8 cache costs."""
    if not are_run(spec, checkpoint):
        return PlannedStage("values", f"not run: {NOT_RUN}", 0.0, BASE_BYTES)
    tokens = PROMPTS * TOKENS
    # one layer in float32, and torch
    peak = BASE_BYTES + _EXPORT_BYTES + 4 * parameters // checkpoint.config.num_layers
    seconds = 4.0 + 2 * parameters * tokens / _MULTIPLIED_PER_SECOND
    return PlannedStage("values", f"run the weights over {tokens} tokens, layer by layer", seconds, peak)
