"""Runs a target's graph passes: proven on the twin, then run on the program; forked per bucket, split into ranks.

It stands above the passes because it proves them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from xamc.errors import InputError
from xamc.ir.program import Program
from xamc.ir.text import program_text
from xamc.ir.weights.kv_scales import KvScales
from xamc.model.bucket import Bucket
from xamc.passes.invariants import check_invariants
from xamc.passes.pipeline import Pipeline
from xamc.passes.protocol import GraphPass, PassReport, SplitsRanks
from xamc.passes.runner import PassRun, run_passes, select_passes
from xamc.verify.float16_range import require_finite
from xamc.verify.kv_calibration import scales_of_cases
from xamc.verify.proof import PassProof, ProofReport, prove
from xamc.verify.rank_proof import prove_split
from xamc.verify.scenario import TWIN_DECODE_LENGTH, TWIN_PREFILL_LENGTH, Case

ALL = "all"
"""In place of a bucket: what is run before the fork."""

TWIN_BUCKETS = (Bucket("prefill", TWIN_PREFILL_LENGTH), Bucket("decode", TWIN_DECODE_LENGTH))

Dump = Callable[[str, str], None]
Twin = tuple[Program, list[Case]]

_UNDIVIDED = "frontend.model_kwargs.tp: 1 compiles it undivided"


@dataclass
class Rewritten:
    """What the passes made of a program, with what was done and shown.

    Attributes:
        program: after the common passes.
        twin: the twin after them, with its calls; None where nothing is proven.
        exported_twin: the twin as it was before.
        ranks: bucket → the program of each rank; empty where lengths are free.
        runs: passes as they ran, by the bucket's name; those before the fork stand under ``all``.
        proofs: what the twin showed, by phase; those before the fork stand under ``all``.
        split_proofs: what the merged ranks of the twin showed, by phase.
        proof_seconds: all the time that proofs added.
    """

    program: Program
    twin: Twin | None = None
    exported_twin: Program | None = None
    ranks: dict[Bucket, list[Program]] = field(default_factory=dict)
    runs: dict[str, list[PassRun]] = field(default_factory=dict)
    proofs: dict[str, ProofReport] = field(default_factory=dict)
    split_proofs: dict[str, PassProof] = field(default_factory=dict)
    proof_seconds: float = 0.0

    @property
    def proven(self) -> list[PassProof]:
        """Every proof, before and after the fork; the export's own, which each list begins with, once."""
        after = [p for place, report in self.proofs.items() for p in report.passes[place != ALL :]]
        return [*after, *self.split_proofs.values()]

    def summary(self) -> tuple[str, str]:
        """(detail, state) in words."""
        runs = [run for runs in self.runs.values() for run in runs]
        text = f"{sum(run.report.total for run in runs)} rewrites"
        if self.ranks:
            ranks = len(next(iter(self.ranks.values())))
            text += f" in {len(self.ranks)} graphs of {ranks} rank{'s' if ranks > 1 else ''}"
        elif silent := [run.name for run in runs if not run.report.total]:
            text += f"; nothing to do for {', '.join(silent)}"
        if not self.proven:
            return text, f"{len(runs)} run"
        worst = max(self.proven, key=lambda proof: proof.worst)
        return f"worst {worst.worst:.1e} at {worst.name}; {text}", f"{len(self.proven)} proven"

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


def rewrite(
    program: Program,
    twin: Twin | None,
    pipeline: Pipeline,
    *,
    disable: Collection[str] = (),
    expect: Mapping[str, int] | None = None,
    kv_scales: KvScales | None = None,
    twin_seconds: float = 0.0,
    dump: Dump | None = None,
) -> Rewritten:
    """Runs the passes on the twin, proving each, and then on the program, of every bucket and rank.

    Args:
        program: as exported; it is rewritten in place.
        twin: with transformers' answers, rewritten in place too; None proves nothing.
        pipeline: the target's passes.
        disable: names of passes to leave out (`passes.disable`).
        expect: number of rewrites by name (`passes.expect`).
        kv_scales: scales of an int8 KV cache, from the calibration of the real model; the twin gets its own.
        twin_seconds: what making the twin took, as part of the proof's time.
        dump: where readable IR goes: (file name, text).

    Raises:
        InputError: E1306, E1307, E1314 from `disable` and `expect`.
        InternalError: E1309 naming the first pass and node that left its tolerance; E1305 a broken invariant.
        UnsupportedError: E1315, a float16 value of the twin is infinite.
    """
    run = _Run(pipeline, disable, expect or {}, dump)
    made = Rewritten(program)
    select_passes(pipeline.common, disable, run.names, pipeline.required)
    if twin is not None:
        made.exported_twin = copy_program(twin[0])
        made.proof_seconds = twin_seconds
        _prove(made, twin, run, kv_scales)
    made.runs[ALL] = run.passes(program, pipeline.common, ALL)
    longest = max((bucket.length for bucket in pipeline.buckets), default=0)
    for bucket in pipeline.buckets:
        own = copy_program(program)
        rows = longest if pipeline.shared_tables else bucket.length
        made.runs[bucket.name] = run.passes(own, pipeline.of_bucket(bucket, rows, kv_scales), bucket.name)
        made.ranks[bucket] = [own]
        if pipeline.split is not None:
            made.ranks[bucket], split = run.split(own, pipeline.split)
            made.runs[bucket.name].append(split)
        if dump is not None:
            dump(f"19-{bucket.name}-rank0.txt", program_text(made.ranks[bucket][0]))
    return made


class _Run:
    """A pipeline with what the spec wants of it."""

    def __init__(
        self, pipeline: Pipeline, disable: Collection[str], expect: Mapping[str, int], dump: Dump | None
    ) -> None:
        self.pipeline, self._disable, self._expect, self._dump = pipeline, disable, expect, dump
        self.names = pipeline.names

    def chosen(self, passes: Sequence[GraphPass]) -> list[GraphPass]:
        """Those that are not disabled."""
        return select_passes(passes, self._disable, self.names, self.pipeline.required)

    def passes(self, program: Program, passes: Sequence[GraphPass], place: str) -> list[PassRun]:
        """Runs a list; the words for what the export yields are counted once, before the fork."""
        own = {graph_pass.name for graph_pass in passes}
        number = iter(range(11, 100))
        label = f"{place}-" if self.pipeline.buckets else ""

        def dumped(run: PassRun, after: Program) -> None:
            assert self._dump is not None
            self._dump(f"{next(number)}-{label}{run.name}.txt", program_text(after))

        return run_passes(
            program,
            passes,
            disable=self._disable,
            expect={name: count for name, count in self._expect.items() if place == ALL or name in own},
            elsewhere=[name for name in self.names if name not in own],
            on_pass=dumped if self._dump is not None else None,
        )

    def split(self, program: Program, splitter: SplitsRanks) -> tuple[list[Program], PassRun]:
        """The ranks' programs; `passes.expect` counts them."""
        start = time.perf_counter()
        ranks = splitter.split(program)
        # the ranks' graphs are one and the same, node for node
        check_invariants(ranks[0], after=splitter.name)
        expected = self._expect.get(splitter.name, len(ranks))
        if expected != len(ranks):
            raise InputError(
                "E1307",
                f"passes.expect: {splitter.name} matched {len(ranks)} times, once per rank, not {expected}",
                fix="correct the number, or frontend.model_kwargs.tp",
                keys=(f"passes.expect.{splitter.name}",),
            )
        return ranks, PassRun(splitter.name, PassReport({"rank": len(ranks)}), time.perf_counter() - start)


def _prove(made: Rewritten, twin: Twin, run: _Run, kv_scales: KvScales | None) -> None:
    """The common passes, then those of each phase that has a bucket, on a copy and with lengths of the twin's calls."""
    program, cases = twin
    pipeline, required = run.pipeline, run.pipeline.required
    common = prove(run.chosen(pipeline.common), program, cases).require(required)
    made.twin = program, common.cases
    made.proofs[ALL] = common
    made.proof_seconds += common.seconds
    scales = None
    if kv_scales is not None:
        scales = scales_of_cases(program.config, common.cases, program.weights if kv_scales.unbiased_keys else None)
    for bucket in TWIN_BUCKETS:
        if all(other.kind != bucket.kind for other in pipeline.buckets):
            continue
        own = copy_program(program)
        passes = (pipeline.of_twin or pipeline.of_bucket)(bucket, TWIN_DECODE_LENGTH, scales)
        fresh = [Case(case.run, case.step, dict(case.feeds), dict(case.fetches)) for case in common.cases]
        report = prove(run.chosen(passes), own, fresh).require(required)
        require_finite(own, report.cases)
        made.proofs[bucket.kind] = report
        made.proof_seconds += report.seconds
        if pipeline.split is not None:
            split = prove_split(pipeline.split, own, report.cases)
            ProofReport([split], split.seconds, []).require(required, _UNDIVIDED)
            made.split_proofs[bucket.kind] = split
            made.proof_seconds += split.seconds


def copy_program(program: Program) -> Program:
    """A copy whose graph and table of weights are its own; the tensors are shared."""
    return Program(program.model.clone(), dict(program.weights), program.config)
