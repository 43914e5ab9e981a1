"""The files that a compile would write, and their sizes: the target's, and those that every artifact has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from xamc.compiler.frontends import Checkpoint
from xamc.compiler.spec import Spec
from xamc.compiler.stages.context import context_lengths
from xamc.compiler.stages.golden import DEFAULT_PROMPTS, PROMPT_TOKENS
from xamc.compiler.stages.job import packing_workers
from xamc.compiler.stages.small_weights import SMALL_WEIGHTS
from xamc.targets.planned import PlannedFile, PlannedModel, TargetPlan
from xamc.targets.request import Request
from xamc.targets.target import Target


def planned_model(spec: Spec, checkpoint: Checkpoint, in_full: bool = True) -> PlannedModel:
    """What a target's plan is made from; see `PlannedModel`."""
    quantize = spec.frontend.quantize
    limit, chunk = context_lengths(spec, checkpoint.config)
    return PlannedModel(
        config=checkpoint.config,
        shapes={name: tensor.shape for name, tensor in checkpoint.tensors.items()},
        input_bytes=sum(path.stat().st_size for path in checkpoint.files),
        stored=quantize.type if quantize is not None else "",
        context_limit=limit,
        prefill_chunk=chunk,
        max_batch=spec.runtime.max_batch,
        proofs=spec.verify.passes == "each",
        workers=packing_workers(spec.workspace.workers),
        in_full=in_full,
    )


def plan_for_target(
    target: Target[Any], request: Request, spec: Spec, checkpoint: Checkpoint, in_full: bool
) -> TargetPlan:
    """The target's plan, with the files that every artifact has.

    Args:
        target: what is planned for.
        request: what it reads of the spec.
        spec: the build file.
        checkpoint: the model.
        in_full: see `PlannedModel`.

    Raises:
        XamcError: what the target can't build of this model.
    """
    planned = target.plan(planned_model(spec, checkpoint, in_full), request)
    return replace(planned, files=(*planned.files, *_common(spec, checkpoint, is_run(spec, planned))))


def is_run(spec: Spec, planned: TargetPlan) -> bool:
    """Whether the compile runs the artifact once, for its golden logits."""
    return planned.answers and (planned.weights <= SMALL_WEIGHTS or spec.verify.final)


def _common(spec: Spec, checkpoint: Checkpoint, has_golden: bool) -> Iterator[PlannedFile]:
    nbytes = sum(
        len(content) if isinstance(content, bytes) else Path(content).stat().st_size
        for content in checkpoint.tokenizer.values()
    )
    holds = ", ".join(sorted(checkpoint.tokenizer)) or "nothing: token ids alone are taken and given"
    yield PlannedFile("tokenizer", nbytes, holds)
    if has_golden:
        prompts = len(spec.verify.prompts or DEFAULT_PROMPTS)
        nbytes = prompts * PROMPT_TOKENS * checkpoint.config.vocab_size * 4 * (2 if spec.verify.final else 1)
        yield PlannedFile("golden", nbytes, f"logits of {prompts} x {PROMPT_TOKENS} positions")
