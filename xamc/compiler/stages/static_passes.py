"""Graph passes of a target of static shapes: once for all, then for every bucket, then split into ranks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xamc.compiler.spec.model import Passes
from xamc.compiler.stages.export import ExportedModel
from xamc.compiler.stages.job import Job
from xamc.errors import InputError
from xamc.ir.program import Program
from xamc.ir.text import program_text
from xamc.ir.weights.kv_scales import KvScales
from xamc.model.bucket import Bucket
from xamc.passes.invariants import check_invariants
from xamc.passes.protocol import GraphPass, PassReport
from xamc.passes.runner import PassRun, run_passes, select_passes
from xamc.targets.request import StaticPasses
from xamc.verify.float16_range import require_finite
from xamc.verify.kv_calibration import scales_of_cases
from xamc.verify.proof import PassProof, ProofReport, prove
from xamc.verify.rank_proof import prove_split
from xamc.verify.scenario import TWIN_DECODE_LENGTH, TWIN_PREFILL_LENGTH, Case

_TWIN_LENGTHS = {"prefill": TWIN_PREFILL_LENGTH, "decode": TWIN_DECODE_LENGTH}

_UNDIVIDED = "frontend.model_kwargs.tp: 1 compiles it undivided"


@dataclass
class StaticGraphs:
    """The programs of every bucket, rank by rank, with what was done and shown.

    Attributes:
        ranks: bucket -> the program of each rank.
        runs: passes as they ran, by the bucket's name; those before the fork stand under ``all``.
        proofs: what the twin showed, by phase; those before the fork stand under ``all``.
        split_proofs: what the merged ranks of the twin showed, by phase.
        proof_seconds: all the time that proofs added.
    """

    ranks: dict[Bucket, list[Program]] = field(default_factory=dict)
    runs: dict[str, list[PassRun]] = field(default_factory=dict)
    proofs: dict[str, ProofReport] = field(default_factory=dict)
    split_proofs: dict[str, PassProof] = field(default_factory=dict)
    proof_seconds: float = 0.0

    def report(self) -> list[Mapping[str, object]]:
        """One entry per pass and bucket for the build report."""
        entries: list[Mapping[str, object]] = []
        for place, runs in self.runs.items():
            phase = place.split("_")[0]
            proofs = {p.name: p for p in self.proofs[phase].passes} if phase in self.proofs else {}
            if phase in self.split_proofs:
                proofs[self.split_proofs[phase].name] = self.split_proofs[phase]
            for run in runs:
                proof = proofs.get(run.name)
                entries.append(
                    {
                        "bucket": place,
                        "name": run.name,
                        "matched": run.report.matched,
                        "skipped": [{"place": s.place, "reason": s.reason} for s in run.report.skipped],
                        "deviation": None if proof is None else proof.worst,
                        "tolerance": None if proof is None else proof.tolerance,
                        "seconds": round(run.seconds, 3),
                    }
                )
        return entries

    @property
    def proven(self) -> list[PassProof]:
        """Every proof, before and after the fork."""
        return [p for report in self.proofs.values() for p in report.passes] + list(self.split_proofs.values())


def rewrite_static(
    job: Job, exported: ExportedModel, passes: StaticPasses, wishes: Passes, kv_scales: KvScales | None = None
) -> StaticGraphs:
    """Runs the passes on the twin, proving each, and then on the real program of every bucket.

    Args:
        job: the compile.
        exported: program and twin; both are rewritten in place.
        passes: the target's lists.
        wishes: the spec's `passes` section.
        kv_scales: scales of an int8 KV cache, from the calibration of the real model; the twin gets its own.

    Raises:
        InputError: E1306, E1307, E1314 from `wishes`.
        InternalError: E1309 naming the first pass and node that left its tolerance; E1305 a broken invariant.
        UnsupportedError: E1315, a float16 value of the twin is infinite.
    """
    graphs = StaticGraphs()
    names = passes.names
    select_passes(passes.common, wishes.disable, names, passes.required)
    if exported.twin is not None:
        _prove(graphs, exported, passes, wishes, names, kv_scales)
    longest = max(bucket.length for bucket in passes.buckets)
    graphs.runs["all"] = _run(job, exported.program, passes.common, wishes, names, "all")
    for bucket in passes.buckets:
        program = copy_program(exported.program)
        rows = longest if passes.shared_tables else bucket.length
        runs = _run(job, program, passes.of_bucket(bucket, rows, kv_scales), wishes, names, bucket.name)
        graphs.runs[bucket.name] = runs
        start = time.perf_counter()
        ranks = [program]
        if passes.split is not None:
            ranks = passes.split.split(program)
            # the ranks' graphs are one and the same, node for node
            check_invariants(ranks[0], after=passes.split.name)
            _check_ranks(passes.split.name, len(ranks), wishes)
            runs.append(PassRun(passes.split.name, PassReport({"rank": len(ranks)}), time.perf_counter() - start))
        graphs.ranks[bucket] = ranks
        job.dump(f"19-{bucket.name}-rank0.txt", program_text(ranks[0]))
    return graphs


def _check_ranks(name: str, ranks: int, wishes: Passes) -> None:
    """`passes.expect` of the split, which is no graph pass and counts its ranks."""
    expected = wishes.expect.get(name, ranks)
    if expected != ranks:
        raise InputError(
            "E1307",
            f"passes.expect: {name} matched {ranks} times, once per rank, not {expected}",
            fix="correct the number, or frontend.model_kwargs.tp",
            keys=(f"passes.expect.{name}",),
        )


def _prove(
    graphs: StaticGraphs,
    exported: ExportedModel,
    passes: StaticPasses,
    wishes: Passes,
    names: Sequence[str],
    kv_scales: KvScales | None,
) -> None:
    assert exported.twin is not None
    twin, cases = exported.twin
    common = prove(select_passes(passes.common, wishes.disable, names, passes.required), twin, cases)
    common.require(passes.required)
    graphs.proofs["all"] = common
    graphs.proof_seconds = exported.twin_seconds + common.seconds
    scales = None
    if kv_scales is not None:
        weights = twin.weights if kv_scales.unbiased_keys else None
        scales = scales_of_cases(twin.config, common.cases, weights)
    for kind in ("prefill", "decode"):
        if not any(bucket.kind == kind for bucket in passes.buckets):
            continue
        bucket = Bucket(kind, _TWIN_LENGTHS[kind])
        mine = copy_program(twin)
        mine_passes = (passes.of_twin or passes.of_bucket)(bucket, TWIN_DECODE_LENGTH, scales)
        chosen = select_passes(mine_passes, wishes.disable, names, passes.required)
        fresh = [Case(case.run, case.step, dict(case.feeds), dict(case.fetches)) for case in common.cases]
        report = prove(chosen, mine, fresh).require(passes.required)
        require_finite(mine, report.cases)
        graphs.proofs[kind] = report
        graphs.proof_seconds += report.seconds
        if passes.split is not None:
            split = prove_split(passes.split, mine, report.cases)
            ProofReport([split], split.seconds, []).require(passes.required, _UNDIVIDED)
            graphs.split_proofs[kind] = split
            graphs.proof_seconds += split.seconds


def _run(
    job: Job, program: Program, passes: Sequence[GraphPass], wishes: Passes, names: Sequence[str], place: str
) -> list[PassRun]:
    own = {graph_pass.name for graph_pass in passes}
    number = iter(range(11, 100))

    def dump(run: PassRun, after: Program) -> None:
        job.dump(f"{next(number)}-{place}-{run.name}.txt", program_text(after))

    expect = {name: n for name, n in wishes.expect.items() if place == "all" or name in own}
    return run_passes(
        program,
        passes,
        disable=wishes.disable,
        expect=expect,
        elsewhere=names,
        on_pass=dump if job.options.dump_ir is not None else None,
    )


def copy_program(program: Program) -> Program:
    """A copy whose graph and table of weights are its own; the tensors are shared."""
    return Program(program.model.clone(), dict(program.weights), program.config)
