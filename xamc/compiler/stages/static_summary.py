"""What the stages of a target of static graphs say of themselves, and its build report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xamc.artifact.golden import Golden
from xamc.artifact.records import to_json
from xamc.compiler.stages.static_passes import StaticGraphs
from xamc.jobs.progress import Progress, Stage, size
from xamc.model.bucket import Bucket
from xamc.verify.golden import Distance

if TYPE_CHECKING:
    from xamc.targets.vacc.bucket_code import GeneratedBucket


def passes(graphs: StaticGraphs) -> tuple[str, str]:
    """(detail, state) of the graph passes."""
    rewrites = sum(run.report.total for runs in graphs.runs.values() for run in runs)
    ranks = len(next(iter(graphs.ranks.values())))
    text = f"{rewrites} rewrites in {len(graphs.ranks)} graphs of {ranks} rank{'s' if ranks > 1 else ''}"
    proven = graphs.proven
    if not proven:
        return text, f"{sum(map(len, graphs.runs.values()))} run"
    worst = max(proven, key=lambda proof: proof.worst)
    return f"worst {worst.worst:.1e} at {worst.name}; {text}", f"{len(proven)} proven"


def codegen(generated: Mapping[Bucket, GeneratedBucket], ranks: int) -> str:
    """For example ``prefill_1024, decode_2048 for 4 ranks, 38 kernels, for the host's simulator``."""
    names = ", ".join(bucket.name for bucket in generated)
    kernels = sum(len(code.kernels) for code in generated.values())
    return f"{names} for {ranks} rank{'s' if ranks > 1 else ''}, {kernels} kernels, for the host's simulator"


def weights(files: Mapping[tuple[Bucket, int], Path]) -> str:
    """Bytes and number of distinct files."""
    distinct = set(files.values())
    return f"{size(sum(path.stat().st_size for path in distinct))} in {len(distinct)} files"


def report(
    progress: Progress,
    running: Stage,
    graphs: StaticGraphs,
    golden: Golden | None,
    distance: Distance | None,
) -> dict[str, Any]:
    """report.json; see `summary.report`."""
    return {
        "stages": progress.summary(running),
        "peak_bytes": progress.sampler.peak if progress.sampler else None,
        "warnings": list(progress.warnings),
        "graph_passes": graphs.report(),
        "proof_seconds": round(graphs.proof_seconds, 3) if graphs.proofs else None,
        "golden": None if golden is None else {"prompts": len(golden.samples), "not_run": golden.not_run or None},
        "final": None if distance is None else to_json(distance),
    }
