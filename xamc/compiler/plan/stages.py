"""The stages of a compile with their times and memory, estimated from measured runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xamc.compiler.frontends import Checkpoint
from xamc.compiler.plan.files import parameter_count
from xamc.compiler.spec import Spec
from xamc.compiler.stages.small_weights import SMALL_WEIGHTS
from xamc.jobs.progress import size
from xamc.targets.base import TargetCaps
from xamc.verify.twin import twin_config

_MIB = 2**20

# Measured on 2 cores at 2.5 GHz, memory rounded up; see docs/benchmarks/scale.md.
BASE_BYTES = 160 * _MIB  # this process with its libraries and a graph
_EXPORT_BYTES = 450 * _MIB  # the exporting child: torch and a modeling file
_EXPORT_BYTES_PER_LAYER = 3 * _MIB
CODEGEN_BYTES = 420 * _MIB  # the generating child: tvm, LLVM and the kernels
_CODEGEN_BYTES_PER_LAYER = 5 * _MIB
_PACKER_BYTES = 200 * _MIB  # one packing process with its blocks
_RUN_BYTES = 200 * _MIB  # the artifact's own run besides its weights, which are mapped
_GEAR_BYTES = 300 * _MIB  # ONNX Runtime on the twin, besides the scores of long prefills
_SCORE_BYTES_PER_SECOND = 100e6
_STREAMED_BYTES_PER_SECOND = 40e6  # one process that reads, converts and writes
_BUCKET_SECONDS, _BUCKET_SECONDS_PER_LAYER = 12.0, 0.4
_EXPORT_SECONDS, _EXPORT_SECONDS_PER_LAYER = 9.0, 0.85
_PASSES_SECONDS, _PASSES_SECONDS_PER_LAYER = 0.8, 0.03
_CODEGEN_SECONDS, _CODEGEN_SECONDS_PER_LAYER = 8.0, 0.3
_PACKED_PARAMETERS_PER_SECOND = 65e6  # of one process
_HASHED_BYTES_PER_SECOND = 1.1e9
_MULTIPLIED_PER_SECOND = 20e9  # products of the streamed model


@dataclass(frozen=True)
class PlannedStage:
    """One stage: what it will do, seconds and peak memory in bytes (estimates).

    `cached` says that the stage cache holds its result, so that it will be taken and not made.
    """

    name: str
    what: str
    seconds: float
    peak_bytes: int
    cached: bool = False


def planned_stages(
    spec: Spec, checkpoint: Checkpoint, weights: int, workers: int, caps: TargetCaps
) -> Iterator[PlannedStage]:
    """The stages of a compile that finds nothing in the stage cache, on a machine nothing is known of.

    Args:
        spec: the build file.
        checkpoint: the model.
        weights: bytes of the artifact's weights.
        workers: processes that pack them.
        caps: the target.
    """
    config = checkpoint.config
    parameters = parameter_count(checkpoint)
    layers = config.num_layers
    proofs = spec.verify.passes == "each"
    inputs = sum(path.stat().st_size for path in checkpoint.files)
    yield PlannedStage("spec", "check the build file", 0.2, BASE_BYTES)
    yield PlannedStage("frontend", f"read headers of {len(checkpoint.files)} files", 0.2, BASE_BYTES)
    export = f"{layers} layers to ONNX" + (", and the twin" if proofs else "")
    seconds = (_EXPORT_SECONDS + _EXPORT_SECONDS_PER_LAYER * layers) * (1 if proofs else 0.6)
    yield PlannedStage("export", export, seconds, BASE_BYTES + _EXPORT_BYTES + _EXPORT_BYTES_PER_LAYER * layers)
    what = "rewrite the graph" + (", prove each pass on the twin" if proofs else "")
    yield PlannedStage("passes", what, _PASSES_SECONDS + _PASSES_SECONDS_PER_LAYER * layers, BASE_BYTES + 50 * _MIB)
    if not caps.dynamic_shapes or spec.runtime.kv_dtype == "int8":
        yield _values_stage(spec, checkpoint, parameters)
    if caps.name == "tvm_ascend":
        from xamc.targets.ascend.plan import MOST_GEAR_BYTES

        if proofs:
            # four copies of the scores of the longest prefill, in float32; see `verify.gears`
            scores = 4 * 4 * twin_config(config).num_heads * spec.prefill_chunk**2
            peak = BASE_BYTES + _GEAR_BYTES + min(scores, MOST_GEAR_BYTES)
            yield PlannedStage("gears", "run every gear on the twin", 6.0 + scores / _SCORE_BYTES_PER_SECOND, peak)
        seconds = (inputs + weights) / _STREAMED_BYTES_PER_SECOND
        yield PlannedStage("onnx", f"read {size(inputs)}, write {size(weights)}", seconds, BASE_BYTES + _PACKER_BYTES)
        golden = weights <= SMALL_WEIGHTS or spec.verify.final
        seconds = 2.0 + (inputs + weights) / _HASHED_BYTES_PER_SECOND + (30.0 if golden else 0.0)
        # ONNX Runtime widens every float16 weight to float32, beside the file
        peak = BASE_BYTES + (_RUN_BYTES + 4 * weights if golden else 0)
        yield PlannedStage("publish", "hash, run once, rename" if golden else "hash, rename", seconds, peak)
        return
    if not caps.dynamic_shapes:
        buckets = len({*spec.prefill_lengths}) + len({*spec.total_lengths})
        seconds = buckets * (_BUCKET_SECONDS + _BUCKET_SECONDS_PER_LAYER * layers)
        peak = BASE_BYTES + min(workers, buckets) * (CODEGEN_BYTES + _CODEGEN_BYTES_PER_LAYER * layers)
        yield PlannedStage(
            "codegen", f"{buckets} graph{'s' if buckets > 1 else ''} for the host's simulator", seconds, peak
        )
    elif caps.kv_layout == "in_place":
        seconds = _CODEGEN_SECONDS + _CODEGEN_SECONDS_PER_LAYER * layers
        peak = BASE_BYTES + CODEGEN_BYTES + _CODEGEN_BYTES_PER_LAYER * layers
        yield PlannedStage("codegen", "lower, rewrite, generate kernels", seconds, peak)
    else:
        yield PlannedStage("codegen", "write the graph", 1.0, BASE_BYTES)
    seconds = parameters / (_PACKED_PARAMETERS_PER_SECOND * workers)
    yield PlannedStage(
        "weights",
        f"read {size(inputs)}, write {size(weights)}, {workers} processes",
        seconds,
        BASE_BYTES + workers * _PACKER_BYTES,
    )
    golden = weights <= SMALL_WEIGHTS or spec.verify.final
    seconds = 2.0 + (inputs + weights) / _HASHED_BYTES_PER_SECOND
    peak = BASE_BYTES + (_RUN_BYTES + weights if golden else 0)
    yield PlannedStage("publish", "hash, run once, rename" if golden else "hash, rename", seconds, peak)


def _values_stage(spec: Spec, checkpoint: Checkpoint, parameters: int) -> PlannedStage:
    """The checkpoint's own weights over a few prompts: values beyond float16, and what an int8 cache costs."""
    from xamc.compiler.stages.real_weights import NOT_RUN, PROMPTS, TOKENS, are_run

    if not are_run(spec, checkpoint):
        return PlannedStage("values", f"not run: {NOT_RUN}", 0.0, BASE_BYTES)
    tokens = PROMPTS * TOKENS
    # one layer in float32, and torch
    peak = BASE_BYTES + _EXPORT_BYTES + 4 * parameters // checkpoint.config.num_layers
    seconds = 4.0 + 2 * parameters * tokens / _MULTIPLIED_PER_SECOND
    return PlannedStage("values", f"run the weights over {tokens} tokens, layer by layer", seconds, peak)
