"""Golden logits: what the artifact answers to a prompt, beside what transformers answers where that was asked for."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from xamc.compiler.child import Limits, run_child
from xamc.compiler.errors import InputError, InternalError
from xamc.compiler.frontends import Checkpoint
from xamc.compiler.spec.model import Spec
from xamc.compiler.stages.job import Job
from xamc.compiler.verify.metrics import kl_divergence, relative_error, top1_agreement
from xamc.compiler.verify.tolerances import tolerance

DEFAULT_PROMPT = "The quick brown fox jumps over the lazy dog. 人工智能 is"
PROMPT_TOKENS = 32
LOGITS = "golden.safetensors"
FACTS = "golden.json"
# a model larger than this is only run while compiling when verify.final asks for it
SMALL_WEIGHTS = 2**30
LIMITS = Limits(seconds=3600, memory_bytes=None)


@dataclass(frozen=True)
class Golden:
    """Token ids [T], the artifact's logits [T, V] and, with `verify.final`, transformers' fp32 logits [T, V]."""

    token_ids: NDArray[np.int64]
    logits: NDArray[np.float32]
    reference: NDArray[np.float32] | None

    def files(self) -> dict[str, bytes]:
        """The files of the artifact's golden folder."""
        tensors: dict[str, NDArray[Any]] = {"token_ids": self.token_ids, "logits": self.logits}
        if self.reference is not None:
            tensors["reference"] = self.reference
        facts = {"logits": "this artifact, when it was compiled", "tolerance": "golden"}
        if self.reference is not None:
            facts["reference"] = "transformers, float32, the checkpoint's weights, layer by layer"
        return {
            LOGITS: safetensors.numpy.save(tensors),
            FACTS: (json.dumps(facts, indent=1, sort_keys=True) + "\n").encode(),
        }

    def distance(self) -> dict[str, float] | None:
        """How far the artifact is from transformers: KL in nats and top-1 agreement over the positions."""
        if self.reference is None:
            return None
        return {
            "mean_kl": float(kl_divergence(self.reference, self.logits).mean()),
            "top1_agreement": top1_agreement(self.reference, self.logits),
            "relative_error": relative_error(self.logits, self.reference),
        }


def record(job: Job, spec: Spec, checkpoint: Checkpoint, folder: Path, context_limit: int, fp32: bool) -> Golden:
    """Runs the unpublished artifact in `folder` on a prompt, in a child process, and transformers if asked for.

    Raises:
        InternalError: E1310 when a float32 artifact is further from transformers than the bound.
        ToolchainError: E152x when the artifact crashes.
    """
    prompt = spec.verify.prompts[0] if spec.verify.prompts else DEFAULT_PROMPT
    with tempfile.TemporaryDirectory(prefix="xamc-golden-") as name:
        scratch = Path(name)
        request = {
            "artifact": str(folder),
            "prompt": prompt,
            "tokens": min(PROMPT_TOKENS, context_limit),
            "out": str(scratch),
        }
        _run("xamc.compiler.stages.golden:run_artifact", request, scratch, job)
        answer = safetensors.numpy.load_file(scratch / LOGITS)
        ids, logits = answer["token_ids"], answer["logits"]
        reference = None
        if spec.verify.final:
            from xamc.compiler.verify.streamed_reference import reference_logits

            reference = reference_logits(checkpoint, ids, scratch, job.cache.folder / "reproducers")
    golden = Golden(ids, logits, reference)
    if reference is not None and fp32:
        error = relative_error(logits, reference)
        if error > tolerance("cpu_fp32"):
            raise InternalError(
                "E1310",
                f"the artifact's logits differ from transformers' by {error:.2g} (relative), allowed is "
                f"{tolerance('cpu_fp32'):.2g} (cpu_fp32)",
                fix="compile with verify.passes: each and --dump-ir DIR, and report the model",
            )
    return golden


def _run(function: str, request: Any, folder: Path, job: Job) -> Any:
    return run_child(function, request, folder=folder, limits=LIMITS, reproducers=job.cache.folder / "reproducers")


def run_artifact(request: dict[str, Any]) -> None:
    """The child's side: logits of every position of the prompt, written to ``out``.

    Raises:
        InputError: E1311 a prompt without a token; InternalError: E1312 logits that are not finite.
    """
    from xamc.runtime import load

    model = load(Path(request["artifact"]))
    ids = model.tokenizer.encode(request["prompt"])[: request["tokens"]]
    if not len(ids):
        raise InputError("E1311", f"the prompt {request['prompt']!r} has no token", fix="set verify.prompts")
    tokens = np.asarray(ids, np.int64)
    logits = model.logits(tokens[None])[0]
    if not np.isfinite(logits).all():
        raise InternalError("E1312", "the compiled model's logits are not finite", fix="report the model")
    safetensors.numpy.save_file({"token_ids": tokens, "logits": logits}, Path(request["out"]) / LOGITS)
