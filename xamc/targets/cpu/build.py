"""The CPU target's artifact: one library per CPU level, the program of one token, and one weights file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

from xamc.artifact.manifest import KvCache, Phase
from xamc.artifact.step_program import STEP_FILE
from xamc.jobs.progress import size
from xamc.model.kv_cache import KV_BLOCK
from xamc.passes.runner import check_counts
from xamc.targets.cpu.library import Generated, generate
from xamc.targets.cpu.request import CpuRequest
from xamc.targets.cpu.tune.tune import Tuned, tune
from xamc.targets.target import Built, Work
from xamc.targets.weights_file import write_weights

_KEYS = ("codegen", "proof", "kernel_proof")


def build(work: Work[CpuRequest]) -> Built:
    """The stages `tune`, `codegen` and `weights`.

    Raises:
        InputError: E1307 a count of `passes.expect`; what reading the weights finds.
        InternalError: E1406 from the proof on the twin; E1482.
        ToolchainError: E152x, a child failed.
    """
    program, twin, request = work.rewritten.program, work.rewritten.twin, work.request
    tuned = None
    if request.tune:
        with work.progress.stage("tune") as stage:
            tuned = tune(program, request, work.cache, stage.progress)
            request = replace(request, tiles=tuned.choice)
            stage.result(*_tuned_in_words(tuned))
        for kernel in tuned.faster:
            work.progress.say(f" tuned: {kernel}")
    with work.progress.stage("codegen") as stage:
        made = generate(program, request, twin, work.cache, work.dump)
        check_counts(work.expect, made.passes)
        stage.result(_in_words(made), work.cache.state(*_KEYS))
    path, table = write_weights(work, made.buffers, made.weights)
    files: dict[str, Path | bytes] = {code.file: library for library, code in made.libraries}
    step_file = None
    (_, first), *others = made.libraries
    if made.step is not None:
        step_file = str(PurePosixPath(first.file).with_name(STEP_FILE))
        files[step_file] = made.step
    return Built(
        files=files | {table.file: path},
        fields={
            "context_limit": work.context_limit,
            "prefill_chunk": work.prefill_chunk,
            "max_batch": work.max_batch,
            "kv": KvCache.paged(request.kv_dtype, KV_BLOCK),
            "functions": ("decode", "prefill_last", "prefill_all"),
            "phases": (Phase("prefill", ("prefill_last", "prefill_all")), Phase("decode", ("decode",))),
            "code_file": first.file,
            "step_file": step_file,
            "weights": table,
            "cpu": first.cpu,
            "variants": tuple(code for _, code in others),
        },
        weights=table.nbytes,
        report={
            "relax_passes": list(made.passes),
            "kernel_proof": made.kernel_proof,
            "tuning": None if tuned is None else tuned.report(),
            "decode": made.decode,
            "codegen_seconds": dict(made.seconds),
        },
    )


def _tuned_in_words(result: Tuned) -> tuple[str, str]:
    state = "cached" if all(kernel.cached for kernel in result.kernels) else "ok"
    return f"{len(result.faster)} of {len(result.kernels)} kernels faster than with default tiles", state


def _in_words(made: Generated) -> str:
    """CPU levels, and what was proven."""
    parts = [code.cpu.mcpu for _, code in made.libraries]
    if len(parts) > 1:
        parts = [f"{code.cpu.mcpu} {size(path.stat().st_size)}" for path, code in made.libraries]
    parts.append(f"{len(made.passes)} Relax passes")
    deviations = [(entry["deviation"], entry["name"]) for entry in made.passes if entry["deviation"] is not None]
    if deviations:
        worst, name = max(deviations)
        parts.append(f"proven, worst {worst:.1e} at {name}")
    proof = made.kernel_proof
    if proof is not None:
        parts.append(
            f"kernels {proof['deviation']:.1e}" if proof["executed"] else f"kernels not run: {proof['reason']}"
        )
    return ", ".join(parts)
