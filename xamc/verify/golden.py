"""Whether an artifact computes here what its golden logits say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xamc.artifact.golden import F32, I64, Golden
from xamc.artifact.manifest import Manifest
from xamc.errors import ToolchainError
from xamc.ir.tolerances import tolerance
from xamc.verify.metrics import kl_divergence, relative_error

_FIX = "its files are whole, so this machine computes something else: run `xamc doctor`, and compile here"


@dataclass(frozen=True)
class Distance:
    """How far an artifact is from transformers in fp32, over all positions of all prompts.

    Attributes:
        mean_kl: Kullback-Leibler divergence in nats.
        top1_agreement: share of positions with the same likeliest token.
        relative_error: max |artifact - transformers| / max |transformers|, of the prompt where it is largest.
    """

    mean_kl: float
    top1_agreement: float
    relative_error: float


@dataclass(frozen=True)
class GoldenResult:
    """What the artifact answered here, beside what it should.

    Attributes:
        prompts, positions: how many were run.
        deviation: max |actual - golden| / max |golden|, of the prompt where it is largest; None when the artifact holds
            no logits of its own.
        tolerance: the bound it keeps.
        same_top1: positions whose likeliest token is the golden one's.
        distance: from transformers, where its logits were recorded.
    """

    prompts: int
    positions: int
    deviation: float | None = None
    tolerance: float | None = None
    same_top1: int | None = None
    distance: Distance | None = None


def is_fp32(manifest: Manifest) -> bool:
    """Whether nothing is stored or multiplied in less than float32, so that the logits are transformers' but for
    rounding."""
    if manifest.weights is None:
        # static graphs hold 16 bits at most
        return False
    stored = {entry.dtype for entry in manifest.weights.tensors} | {manifest.kv.dtype}
    return stored == {"float32"} and manifest.quantization.activations == "float32"


def distance(logits: Sequence[F32], reference: Sequence[F32]) -> Distance:
    """Distance of an artifact's logits [T, V] per prompt from transformers'."""
    agreeing = sum(_same_top1(mine, theirs) for mine, theirs in zip(logits, reference, strict=True))
    kl = np.concatenate([kl_divergence(theirs, mine) for mine, theirs in zip(logits, reference, strict=True)])
    worst = max(relative_error(mine, theirs) for mine, theirs in zip(logits, reference, strict=True))
    return Distance(float(kl.mean()), agreeing / len(kl), worst)


def check_golden(
    path: Path, manifest: Manifest, golden: Golden, compute: Callable[[I64], F32], cpu_level: str | None = None
) -> GoldenResult:
    """Runs an artifact on its golden prompts and compares.

    Against its own logits where it has them. An artifact compiled on a machine that couldn't run it is compared with
    transformers': within `cpu_fp32` if it stores everything in float32; a rounded one must at least say more about
    transformers' next tokens than a uniform guess does. Without either, finite logits are all that can be asked for.
    Logits that the library of another CPU level gave are compared more loosely where layers multiply in integers, as
    levels round activations differently.

    Args:
        path: the artifact's folder, for messages; its digests are known to be right.
        manifest: its manifest.
        golden: its golden logits.
        compute: token_ids int64[1, T] → logits float32[1, T, V]; the runtime's `Model.logits`.
        cpu_level: of the code that computes; None where no code for a CPU does.

    Raises:
        ToolchainError: E1511 the logits are further apart than allowed, or not finite.
    """
    actual = [compute(sample.token_ids[None])[0] for sample in golden.samples]
    positions = sum(len(sample.token_ids) for sample in golden.samples)
    if not all(np.isfinite(logits).all() for logits in actual):
        raise ToolchainError("E1511", f"{path}: the logits are not finite", fix=_FIX)
    own = [sample.logits for sample in golden.samples if sample.logits is not None]
    reference = [sample.reference for sample in golden.samples if sample.reference is not None]
    far = distance(actual, reference) if reference else None
    if not own:
        if far is not None:
            _check_reference(path, far, reference, is_fp32(manifest))
        return GoldenResult(len(actual), positions, distance=far)
    deviation = max(relative_error(mine, theirs) for mine, theirs in zip(actual, own, strict=True))
    same = sum(_same_top1(mine, theirs) for mine, theirs in zip(actual, own, strict=True))
    other = bool(golden.cpu_level) and golden.cpu_level != cpu_level
    bound = tolerance("golden_other_level" if other and manifest.quantization.activations != "float32" else "golden")
    if not deviation <= bound:
        raise ToolchainError(
            "E1511",
            f"{path}: logits differ from the golden ones by {deviation:.2g} (relative), "
            f"allowed are {bound:.2g}; {same} of {positions} likeliest tokens agree",
            fix=_FIX,
        )
    return GoldenResult(len(actual), positions, deviation, bound, same, far)


def _check_reference(path: Path, far: Distance, reference: Sequence[F32], fp32: bool) -> None:
    bound = tolerance("cpu_fp32")
    if fp32 and far.relative_error > bound:
        raise ToolchainError(
            "E1511",
            f"{path}: logits differ from transformers' by {far.relative_error:.2g} (relative), allowed are {bound:.2g}",
            fix=_FIX,
        )
    guess = float(np.concatenate([kl_divergence(logits, np.zeros_like(logits)) for logits in reference]).mean())
    if not far.mean_kl < guess:
        raise ToolchainError(
            "E1511",
            f"{path}: logits are {far.mean_kl:.2g} nats from transformers', a uniform guess only {guess:.2g} nats",
            fix=_FIX,
        )


def _same_top1(mine: NDArray[np.float32], theirs: NDArray[np.float32]) -> int:
    return int((mine.argmax(-1) == theirs.argmax(-1)).sum())
