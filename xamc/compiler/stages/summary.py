"""What each stage says of itself in the table, and the build report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from xamc.artifact.golden import Golden
from xamc.artifact.manifest import Quantization
from xamc.artifact.records import to_json
from xamc.compiler.frontends import Checkpoint
from xamc.compiler.spec import KeyUse
from xamc.compiler.spec.model import LoadedSpec
from xamc.jobs.progress import Progress, Stage, size
from xamc.model.config import ModelConfig
from xamc.model.parameters import operator_counts
from xamc.targets.target import Built
from xamc.verify.driver import Rewritten
from xamc.verify.golden import Distance


def spec_warnings(progress: Progress, loaded: LoadedSpec) -> None:
    """Says which keys of the spec have no effect or another name, before any of them can be the cause of an error."""
    for warning in loaded.warnings:
        progress.warn(str(warning))


def quantization_warning(progress: Progress, quantization: Quantization) -> None:
    """Says when weights are rounded where calibrated ones were asked for."""
    if quantization.requested != quantization.used:
        progress.warn(f"{quantization.requested} was asked for, {quantization.used} is used (--allow-rtn)")


def warn_all(progress: Progress, sentences: Iterable[str]) -> None:
    """Says each of them once, such as what of the checkpoint's folder is left out."""
    for sentence in sentences:
        progress.warn(sentence)


def spec(uses: Sequence[KeyUse]) -> str:
    """For example ``14 keys used, 3 recorded only (pyenv, b2s, workers)``."""
    kinds = Counter(use.use for use in uses)
    parts = [f"{kinds['used']} keys used"]
    for kind in ("recorded", "no effect"):
        names = [use.path.rsplit(".", 1)[-1] for use in uses if use.use == kind]
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            parts.append(f"{len(names)} {'recorded only' if kind == 'recorded' else 'without effect'} ({shown})")
    return ", ".join(parts)


def frontend(checkpoint: Checkpoint) -> str:
    """Family, layers and size on disk."""
    config = checkpoint.config
    nbytes = sum(path.stat().st_size for path in checkpoint.files)
    return f"{config.model_type}, {config.num_layers} layers, {len(checkpoint.tensors)} tensors, {size(nbytes)}"


def export(config: ModelConfig) -> str:
    """The counts that the exporter has checked."""
    attention, rotations, norms = operator_counts(config).values()
    return f"{config.num_layers} layers: {attention} Attention, {rotations} RotaryEmbedding, {norms} norms"


def published(nbytes: int, not_run: str, distance: Distance | None) -> str:
    """Size, and how far the model is from transformers or that it has not been run."""
    if not_run:
        return f"{size(nbytes)}, not run here"
    if distance is None:
        return size(nbytes)
    near = f"KL {distance.mean_kl:.1e} nats, top-1 {distance.top1_agreement:.0%}"
    return f"{size(nbytes)}, {near} against transformers fp32"


def not_run(progress: Progress, reason: str) -> None:
    """Warns about an artifact whose code this machine can't execute."""
    if reason:
        progress.warn(
            f"neither kernels nor golden logits have been run: {reason}; run `xamc verify` on a CPU that has them"
        )


def report(
    progress: Progress, running: Stage, rewritten: Rewritten, built: Built, golden: Golden | None, far: Distance | None
) -> dict[str, Any]:
    """report.json: times, memory, pass counts with reasons for what did not match, and tolerances reached.

    `running` is the stage that writes it, as far as it is.
    """
    return {
        "stages": progress.summary(running),
        "peak_bytes": progress.sampler.peak if progress.sampler else None,
        "warnings": list(progress.warnings),
        "graph_passes": rewritten.report(),
        **built.report,
        "proof_seconds": round(rewritten.proof_seconds, 3) if rewritten.proofs else None,
        "golden": None if golden is None else {"prompts": len(golden.samples), "not_run": golden.not_run or None},
        "final": None if far is None else to_json(far),
    }
