"""What each stage says of itself in the table, and the build report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from xamc.artifact.golden import Golden
from xamc.artifact.manifest import Quantization
from xamc.artifact.records import to_json
from xamc.compiler.frontends import Checkpoint
from xamc.compiler.spec import KeyUse
from xamc.compiler.spec.model import LoadedSpec
from xamc.compiler.stages.passes import Rewritten
from xamc.compiler.stages.weights import WrittenWeights
from xamc.jobs.cache import StageCache
from xamc.jobs.progress import Progress, Stage, size
from xamc.model.config import ModelConfig
from xamc.model.parameters import operator_counts
from xamc.targets.request import Generated
from xamc.verify.golden import Distance

if TYPE_CHECKING:
    from xamc.targets.cpu.tune.tune import Tuned


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


def cached(cache: StageCache, stage: str) -> str:
    """``cached`` when all of the stage's results were found, else ``ok``."""
    made = any(key.stage == stage for key in cache.misses)
    return "cached" if not made and any(key.stage == stage for key in cache.hits) else "ok"


def passes(rewritten: Rewritten) -> tuple[str, str]:
    """(detail, state) of the graph passes."""
    rewrites = sum(run.report.total for run in rewritten.runs)
    silent = [run.name for run in rewritten.runs if not run.report.total]
    text = f"{rewrites} rewrites"
    if silent:
        text += f"; nothing to do for {', '.join(silent)}"
    if rewritten.proof is None:
        return text, f"{len(rewritten.runs)} run"
    worst = rewritten.proof.worst
    text = f"worst {worst.worst:.1e} at {worst.name}; {text}"
    return text, f"{len(rewritten.proof.passes)} proven"


def tuned(result: Tuned) -> tuple[str, str]:
    """(detail, state) of a search for tiles."""
    state = "cached" if all(kernel.cached for kernel in result.kernels) else "ok"
    return f"{len(result.faster)} of {len(result.kernels)} kernels faster than with default tiles", state


def codegen(generated: Generated, cache: StageCache) -> tuple[str, str]:
    """(detail, state) of code generation."""
    stages = ("codegen", "proof", "kernel_proof", "reference")
    state = "ok" if any(key.stage in stages for key in cache.misses) else "cached"
    parts = [generated.cpu.mcpu] if generated.cpu.features else ["ONNX"]
    if generated.variants:
        files = [generated.code, *(path for path, _ in generated.variants)]
        cpus = [generated.cpu, *(code.cpu for _, code in generated.variants)]
        parts = [f"{cpu.mcpu} {size(path.stat().st_size)}" for cpu, path in zip(cpus, files, strict=True)]
    if generated.passes:
        parts.append(f"{len(generated.passes)} Relax passes")
        deviations = [(p["deviation"], p["name"]) for p in generated.passes if p["deviation"] is not None]
        if deviations:
            worst, name = max(deviations)
            parts.append(f"proven, worst {worst:.1e} at {name}")
    proof = generated.kernel_proof
    if proof is not None:
        parts.append(
            f"kernels {proof['deviation']:.1e}" if proof["executed"] else f"kernels not run: {proof['reason']}"
        )
    return ", ".join(parts), state


def weights(generated: Generated, written: WrittenWeights) -> str:
    """Parameters and bytes."""
    parameters = sum(weight.parameters for weight in generated.weights)
    return f"{parameters / 1e6:.0f} M parameters in {size(written.table.nbytes)}"


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
    progress: Progress,
    running: Stage,
    rewritten: Rewritten,
    generated: Generated,
    golden: Golden | None,
    distance: Distance | None,
    tuned: Tuned | None,
) -> dict[str, Any]:
    """report.json: times, memory, pass counts with reasons for what did not match, and tolerances reached.

    `running` is the stage that writes it, as far as it is.
    """
    return {
        "stages": progress.summary(running),
        "peak_bytes": progress.sampler.peak if progress.sampler else None,
        "warnings": list(progress.warnings),
        "graph_passes": rewritten.report(),
        "relax_passes": list(generated.passes),
        "kernel_proof": generated.kernel_proof,
        "tuning": None if tuned is None else tuned.report(),
        "decode": generated.decode,
        "codegen_seconds": dict(generated.seconds),
        "proof_seconds": round(rewritten.proof_seconds, 3) if rewritten.proof else None,
        "golden": None if golden is None else {"prompts": len(golden.samples), "not_run": golden.not_run or None},
        "final": None if distance is None else to_json(distance),
    }
