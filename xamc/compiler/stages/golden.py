"""Golden logits: what the artifact answers to prompts, beside what transformers answers where that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from xamc.artifact.golden import Golden, Sample
from xamc.artifact.manifest import Cpu, Manifest
from xamc.artifact.staging import temporary_folder
from xamc.compiler.frontends import Checkpoint
from xamc.compiler.spec.model import Spec
from xamc.compiler.stages.job import Job
from xamc.errors import InputError, InternalError
from xamc.ir.tolerances import tolerance
from xamc.jobs.child import Limits, run_child
from xamc.runtime.executors.registry import executor_of, register_executor
from xamc.verify.golden import Distance, distance, is_fp32

DEFAULT_PROMPTS = ("The quick brown fox jumps over the lazy dog. 人工智能 is",)
PROMPT_TOKENS = 32  # of each prompt
LIMITS = Limits(seconds=3600, memory_bytes=None)
_ANSWERS = "answers.safetensors"


def why_not_run(*cpus: Cpu) -> str:
    """Why this machine can't execute any of an artifact's libraries; empty when it can."""
    from xamc.runtime import cpu_features

    lacking = cpu_features.why_not_run(cpus)
    return f"the CPU that compiled it lacks {lacking}" if lacking else ""


def record(
    job: Job, spec: Spec, checkpoint: Checkpoint, manifest: Manifest, folder: Path, not_run: str
) -> tuple[Golden, Distance | None]:
    """Runs the unpublished artifact in `folder` on the spec's prompts, in a child process, and transformers if asked.

    An artifact that this machine can't execute, for the reason `not_run`, keeps the prompts' token ids and
    transformers' logits alone.

    Returns:
        What to put into the artifact, and how far it is from transformers where both were run.

    Raises:
        InputError: E1613 prompts of the spec, and no tokenizer to read them.
        InternalError: E1310 when a float32 artifact is further from transformers than the bound, E1312 logits that are
            not finite.
        UnsupportedError: E1315 when a float16 KV cache can't hold the keys or values.
        ToolchainError: E152x when the artifact crashes.
    """
    prompts = spec.verify.prompts or DEFAULT_PROMPTS
    if spec.verify.prompts and not checkpoint.tokenizer:
        raise InputError(
            "E1613",
            f"{checkpoint.path} has no tokenizer, and verify.prompts are texts",
            "put tokenizer.json there, or leave verify.prompts out: token ids are taken then",
            keys=("verify.prompts",),
        )
    with temporary_folder("golden") as scratch:
        request = {
            "artifact": str(folder),
            "target": manifest.target,
            "executor": executor_of(manifest.target),
            "tokenizer": str(folder / manifest.tokenizer) if checkpoint.tokenizer else None,
            "vocab_size": manifest.model.vocab_size,
            "prompts": list(prompts),
            "asked_for": bool(spec.verify.prompts),
            "tokens": min(PROMPT_TOKENS, manifest.context_limit),
            "execute": not not_run,
            "out": str(scratch / _ANSWERS),
        }
        reproducers = job.cache.folder / "reproducers"
        try:
            run_child(f"{__name__}:run_artifact", request, folder=scratch, limits=LIMITS, reproducers=reproducers)
        except InternalError as error:
            if error.code == "E1312":
                _explain_overflow(job, spec, checkpoint, manifest)
            raise
        answers = safetensors.numpy.load_file(scratch / _ANSWERS)
        ids = [answers[f"{index}.token_ids"] for index in range(len(prompts))]
        logits = [answers.get(f"{index}.logits") for index in range(len(ids))]
        reference: list[Any] = [None] * len(ids)
        if spec.verify.final:
            from xamc.verify.streamed_reference import reference_logits

            reference = list(reference_logits(checkpoint.config, checkpoint.tensors, ids, scratch, reproducers))
    level = ""
    if manifest.variants and not not_run:
        from xamc.runtime.cpu_features import best_code

        level = best_code(manifest).cpu.mcpu
    golden = Golden(tuple(map(Sample, ids, logits, reference)), not_run, level)
    far = None
    if spec.verify.final and not not_run:
        far = distance([array for array in logits if array is not None], reference)
        bound = tolerance("cpu_fp32")
        if is_fp32(manifest) and far.relative_error > bound:
            raise InternalError(
                "E1310",
                f"the artifact's logits differ from transformers' by {far.relative_error:.2g} (relative), allowed is "
                f"{bound:.2g} (cpu_fp32)",
                fix="compile with verify.passes: each and --dump-ir DIR, and report the model",
            )
    return golden, far


def _explain_overflow(job: Job, spec: Spec, checkpoint: Checkpoint, manifest: Manifest) -> None:
    """Says whose values are beyond float16 in an artifact whose logits are not finite, if that is the reason.

    Raises:
        UnsupportedError: E1315.
    """
    from xamc.compiler.stages import real_weights
    from xamc.verify.cache_rounding import CacheRounding

    if manifest.kv.dtype == "float16" and manifest.weights is not None:
        # what transformers does in fp32; static graphs were looked at before they were made
        observed = real_weights.look(job, spec, checkpoint, CacheRounding("float32"))
        real_weights.require_float16_cache(observed)


def run_artifact(request: dict[str, Any]) -> None:
    """The child's side: token ids of every prompt, and with ``execute`` their logits, written to ``out``.

    Raises:
        InputError: E1311 a prompt of the spec without a token; InternalError: E1312 logits that are not finite.
    """
    from xamc.runtime import load

    register_executor(request["target"], request["executor"])
    encode = _encoder(request)
    model = load(Path(request["artifact"])) if request["execute"] else None
    answers: dict[str, NDArray[Any]] = {}
    for index, prompt in enumerate(request["prompts"]):
        ids = encode(prompt)[: request["tokens"]]
        if not len(ids):  # a prompt of the spec
            keys = (f"verify.prompts.{index}",)
            raise InputError("E1311", f"the prompt {prompt!r} has no token", fix="set verify.prompts", keys=keys)
        answers[f"{index}.token_ids"] = ids.astype(np.int64)
        if model is None:
            continue
        logits = model.logits(ids[None])[0]
        if not np.isfinite(logits).all():
            raise InternalError(
                "E1312",
                "the compiled model's logits are not finite",
                fix="try backend.dtype: fp32; if that is finite, the checkpoint's values don't fit 16 bits, otherwise "
                "report the model",
            )
        answers[f"{index}.logits"] = logits
    safetensors.numpy.save_file(answers, request["out"])


def _encoder(request: dict[str, Any]) -> Callable[[str], NDArray[np.int64]]:
    """Token ids of a prompt; pseudo-random ones, the same in every compile, where the checkpoint has no tokenizer, or
    has one that makes nothing of a prompt that is ours and not the spec's."""
    generator = np.random.default_rng(0)

    def random(prompt: str) -> NDArray[np.int64]:
        return generator.integers(0, int(request["vocab_size"]), int(request["tokens"]), dtype=np.int64)

    if request["tokenizer"] is None:
        return random
    from xamc.runtime.tokenizer import Tokenizer

    encode = Tokenizer(Path(request["tokenizer"])).encode
    if request["asked_for"]:
        return encode
    return lambda prompt: ids if len(ids := encode(prompt)) else random(prompt)
