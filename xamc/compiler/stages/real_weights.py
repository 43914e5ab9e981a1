"""Whether the real weights' values fit a target's 16 bits, and what an 8-bit KV cache costs them: measured.

The twin shows that a rewrite is right, but its weights are its own: only the checkpoint's say how large values grow and
what lies in keys. Small models are always run, larger ones with ``verify: {final: true}``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xamc.artifact.records import from_json, to_json
from xamc.artifact.staging import temporary_folder
from xamc.compiler.frontends import Checkpoint
from xamc.compiler.spec.model import Spec
from xamc.compiler.stages.job import Job
from xamc.compiler.stages.small_weights import SMALL_WEIGHTS
from xamc.errors import InputError, UnsupportedError
from xamc.ir.tolerances import tolerance
from xamc.ir.weights.fingerprint import fingerprint, reading_modules
from xamc.ir.weights.float16_loss import lost_in_float16
from xamc.ir.weights.kv_scales import KvScales
from xamc.jobs.cache import stage_key
from xamc.jobs.progress import Progress
from xamc.passes.pipeline import Pipeline
from xamc.targets.registry import CAPS, HOST
from xamc.targets.request import Request
from xamc.verify.cache_rounding import CacheRounding
from xamc.verify.calibration_text import DEFAULT_TEXTS, is_varied, random_samples, token_samples
from xamc.verify.real_weights import KEYS, UNSCALED, VALUES, Magnitude, Observed, observe

LARGEST_FLOAT16 = 65504.0
NOT_RUN = "more than 1 GiB of weights: verify.final: true runs them"
PROMPTS, TOKENS = 4, 64
_RESULT = "observed.json"
_CHILD = "xamc.verify.real_weights:run_request"


def are_run(spec: Spec, checkpoint: Checkpoint) -> bool:
    """Whether a compile runs the checkpoint's own weights: small ones, or where `verify.final` asks for it."""
    parameters = sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values())
    return spec.verify.final or 2 * parameters <= SMALL_WEIGHTS


def look(job: Job, spec: Spec, checkpoint: Checkpoint, cache: CacheRounding) -> Observed:
    """Runs the checkpoint over a few prompts, or takes what an earlier compile saw.

    Args:
        job: the compile.
        spec: its `verify.prompts` are run as well.
        checkpoint: the model.
        cache: how keys and values are stored.

    Raises:
        ToolchainError: E152x, the child failed.
    """
    prompts = _prompts(spec, checkpoint)
    scales = {} if cache.scales is None else cache.scales.tensors
    inputs = {
        "config": to_json(checkpoint.config),
        "tensors": {name: fingerprint(tensor) for name, tensor in checkpoint.tensors.items()},
        "prompts": [hashlib.sha256(prompt.tobytes()).hexdigest() for prompt in prompts],
        "cache": [cache.dtype, cache.unbiased_keys, cache.scales is not None],
        "scales": {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in scales.items()},
    }
    runs = (_CHILD, *reading_modules(checkpoint.tensors.values()))
    key = stage_key("real_weights", __name__, runs, inputs)

    def build(folder: Path) -> None:
        with temporary_folder("weights") as scratch:
            found = observe(
                checkpoint.config, checkpoint.tensors, prompts, cache, scratch, job.cache.folder / "reproducers"
            )
        (folder / _RESULT).write_text(json.dumps(to_json(found)))

    folder = job.cache.get(key) or job.cache.publish(key, build)
    return from_json(Observed, json.loads((folder / _RESULT).read_text()))


def require_float16(observed: Observed, target: str, scales_queries: bool) -> None:
    """Refuses a model some of whose values a target that computes in float16 can't hold.

    Args:
        observed: what was seen.
        target: its name, for the message.
        scales_queries: whether its attention scales queries, so that no scores are ever larger than they end up.

    Raises:
        UnsupportedError: E1315 naming the first module, and others.
    """
    _require(
        [magnitude for magnitude in observed.magnitudes if not (scales_queries and magnitude.what == UNSCALED)],
        f"{target} computes in float16",
        f"compile it for {HOST}, which computes in float32, with backend.dtype: bf16; "
        f"{target} has no type with a wider range",
        ("backend.type", "backend.dtype"),
    )


def require_float16_cache(observed: Observed) -> None:
    """Refuses a model whose keys or values are beyond a float16 cache.

    Raises:
        UnsupportedError: E1315.
    """
    _require(
        [magnitude for magnitude in observed.magnitudes if magnitude.what in (KEYS, VALUES)],
        "the KV cache is float16",
        "set runtime.kv_dtype: bf16 or fp32, or backend.dtype: bf16, whose KV cache is bf16",
        ("runtime.kv_dtype", "backend.dtype"),
    )


def _require(magnitudes: list[Magnitude], why: str, fix: str, keys: tuple[str, ...]) -> None:
    # of a weight that is no number nothing is said here: where weights are read, the tensor is named
    beyond = [magnitude for magnitude in magnitudes if magnitude.largest > LARGEST_FLOAT16]
    if beyond:
        raise UnsupportedError(
            "E1315",
            f"{beyond[0]} go beyond float16's largest value, 65504, and {why}",
            fix=fix,
            details=tuple(f"also {magnitude}" for magnitude in beyond[1:6]),
            keys=keys,
        )


def report(observed: Observed) -> dict[str, Any]:
    """For report.json: the five largest values, and the cache's cost."""
    magnitudes = sorted(observed.magnitudes, key=lambda magnitude: -magnitude.largest)[:5]
    cost = {"positions": observed.positions, "mean_kl": observed.mean_kl, "top1_agreement": observed.top1_agreement}
    return {"largest": [to_json(magnitude) for magnitude in magnitudes], "kv_cache": cost}


def in_words(observed: Observed, kv_dtype: str) -> str:
    """One line: the largest value, and what the cache costs."""
    largest = max(observed.magnitudes, key=lambda magnitude: magnitude.largest)
    text = f"largest value {largest.largest:.3g}, {largest.what} of {largest.module}"
    return f"{text}; {cost(observed, kv_dtype)}" if kv_dtype == "int8" else text


def cost(observed: Observed, kv_dtype: str) -> str:
    """For example ``a KV cache in int8 costs 4.5e-04 nats, the same likeliest token in 98 % of positions``."""
    same = f"the same likeliest token in {observed.top1_agreement:.0%} of {observed.positions} positions"
    return f"a KV cache in {kv_dtype} costs {observed.mean_kl:.1e} nats, {same}"


def warn_of_cost(progress: Progress, observed: Observed, kv_dtype: str, fix: str) -> None:
    """Warns about a cache that costs more than its bound, with the number and the remedy."""
    if observed.mean_kl > tolerance("cache_kl"):
        progress.warn(f"{cost(observed, kv_dtype)}; defaults cost at most {tolerance('cache_kl'):g} nats: {fix}")


def warn_of_small_weights(progress: Progress, checkpoint: Checkpoint, request: Request) -> None:
    """Warns about matrices that lose more in float16 than they would in bfloat16, by a sample of their rows."""
    if request.weight_dtype != "float16" or request.quantize is not None:
        return
    lost = lost_in_float16(checkpoint.tensors)
    if lost:
        name, share = next(iter(lost.items()))
        more = f" and {len(lost) - 1} others" if len(lost) > 1 else ""
        progress.warn(
            f"{name}{more}: its values are so small that float16 loses {share:.1%} of them; store the weights in "
            f"bfloat16 or float32 (backend.dtype: bf16 or fp32, on {HOST})"
        )


def look_at_values(
    job: Job, spec: Spec, checkpoint: Checkpoint, request: Request, pipeline: Pipeline, scales: KvScales | None
) -> Mapping[str, Any] | None:
    """What the real weights do, as a stage of its own, for the report; None where they are not run.

    Nothing is to be seen on a target that computes in float32 with a cache of floats, so that there is no stage then.

    Args:
        job: the compile.
        spec: the build file.
        checkpoint: the model.
        request: the target's.
        pipeline: its passes.
        scales: of a calibrated int8 KV cache; without them such a cache has a scale per token and head.

    Raises:
        UnsupportedError: E1315, float16 can't hold the model's values.
    """
    caps, kv_dtype = CAPS[spec.backend.type], request.kv_dtype
    if caps.computes == "float32" and kv_dtype != "int8":
        return None
    with job.progress.stage("values") as stage:
        if not are_run(spec, checkpoint):
            stage.result(NOT_RUN, "not run")
            return None
        rounding = CacheRounding("float32")
        if kv_dtype == "int8":
            rounding = CacheRounding(kv_dtype, scales, scales is None or scales.unbiased_keys)
        observed = look(job, spec, checkpoint, rounding)
        if caps.computes == "float16":
            require_float16(observed, caps.name, _scales_queries(pipeline))
        text = in_words(observed, kv_dtype) if caps.computes == "float16" else cost(observed, kv_dtype)
        stage.result(text, job.cache.state("real_weights"))
    fix = "set runtime.kv_dtype: fp16 or bf16" if scales is None else "use float16, without frontend.quantize"
    warn_of_cost(job.progress, observed, kv_dtype, fix)
    return report(observed)


def _scales_queries(pipeline: Pipeline) -> bool:
    """Whether attention scales queries, so that no scores are ever larger than they end up."""
    passes = pipeline.of_bucket(pipeline.buckets[0], pipeline.buckets[0].length, None) if pipeline.buckets else []
    return any(getattr(graph_pass, "scale_query", False) for graph_pass in (*pipeline.common, *passes))


def _prompts(spec: Spec, checkpoint: Checkpoint) -> list[NDArray[np.int64]]:
    """Pieces of xamc's own text and the spec's prompts; random tokens too where the tokenizer makes little of them."""
    config = checkpoint.config
    length = min(TOKENS, config.max_position_embeddings)
    found: list[NDArray[np.int64]] = []
    with temporary_folder("tokenizer") as folder:
        for name, content in checkpoint.tokenizer.items():
            data = content if isinstance(content, bytes) else Path(content).read_bytes()
            (folder / name).write_bytes(data)
        # the tokenizers library is loaded only here
        from xamc.runtime.tokenizer import Tokenizer

        try:
            tokenizer = Tokenizer(Path(folder))
            found += token_samples(tokenizer, DEFAULT_TEXTS, PROMPTS, length, config.vocab_size)
            given = [tokenizer.encode(prompt)[:length].astype(np.int64) for prompt in spec.verify.prompts or ()]
            found += [ids for ids in given if len(ids) and ids.max() < config.vocab_size]
        except InputError:
            pass  # what is wrong with the tokenizer is said where the artifact gets it
    return found if is_varied(found) else found + random_samples(PROMPTS, length, config.vocab_size)
