"""Graph passes: proven on the twin, then run on the real program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xamc.compiler.spec.model import Passes
from xamc.compiler.stages.export import ExportedModel
from xamc.compiler.stages.job import Job
from xamc.errors import InputError
from xamc.ir.program import Program
from xamc.ir.text import program_text
from xamc.passes.protocol import GraphPass
from xamc.passes.runner import PassRun, run_passes, select_passes
from xamc.verify.proof import ProofReport, prove
from xamc.verify.scenario import Case


@dataclass
class Rewritten:
    """The program and its twin after all graph passes, with what was done and shown.

    `proof_seconds` is all the time that the proof added: exporting the twin, transformers' answers, and the oracle.
    """

    program: Program
    runs: list[PassRun]
    proof: ProofReport | None
    twin: tuple[Program, list[Case]] | None
    proof_seconds: float = 0.0

    def report(self) -> list[Mapping[str, object]]:
        """One entry per pass for the build report."""
        proofs = {p.name: p for p in self.proof.passes} if self.proof else {}
        entries: list[Mapping[str, object]] = []
        for run in self.runs:
            proof = proofs.get(run.name)
            entries.append(
                {
                    "name": run.name,
                    "matched": run.report.matched,
                    "skipped": [{"place": s.place, "reason": s.reason} for s in run.report.skipped],
                    "deviation": None if proof is None else proof.worst,
                    "tolerance": None if proof is None else proof.tolerance,
                    "seconds": round(run.seconds + (proof.seconds if proof else 0.0), 3),
                }
            )
        return entries


def rewrite(
    job: Job,
    exported: ExportedModel,
    passes: Sequence[GraphPass],
    wishes: Passes,
    own_passes: Sequence[str],
    required: Sequence[str] = (),
) -> Rewritten:
    """Runs the target's graph passes.

    Args:
        job: the compile.
        exported: program and twin; both are rewritten in place.
        passes: the target's list.
        wishes: the spec's `passes` section.
        own_passes: names of passes that the target runs itself, so that the spec may name them.
        required: names of passes that the target can't do without.

    Raises:
        InputError: E1306, E1307, E1314 from `wishes`.
        InternalError: E1309 naming the first pass and node that left its tolerance; E1305 a broken invariant.
    """
    active = select_passes(passes, wishes.disable, own_passes, required)
    proof = None
    if exported.twin is not None:
        twin, cases = exported.twin
        proof = prove(active, twin, cases).require(required)
    number = iter(range(11, 20))

    def dump(run: PassRun, program: Program) -> None:
        job.dump(f"{next(number)}-{run.name}.txt", program_text(program))

    runs = run_passes(
        exported.program,
        passes,
        disable=wishes.disable,
        expect=wishes.expect,
        elsewhere=own_passes,
        on_pass=dump if job.options.dump_ir is not None else None,
    )
    twin_after = (exported.twin[0], proof.cases) if exported.twin is not None and proof is not None else None
    seconds = exported.twin_seconds + proof.seconds if proof is not None else 0.0
    return Rewritten(exported.program, runs, proof, twin_after, seconds)


def check_own_passes(wishes: Passes, passes: Sequence[Mapping[str, Any]]) -> None:
    """Compares `passes.expect` with the counts of the passes that the target ran itself.

    Args:
        wishes: the spec's `passes` section.
        passes: the target's reports: ``name``, ``matched`` (rule -> count), ``skipped`` with ``place`` and ``reason``.

    Raises:
        InputError: E1307 naming the pass, both numbers, and where and why it did not match.
    """
    for report in passes:
        name, count = report["name"], sum(report["matched"].values())
        expected = wishes.expect.get(name, count)
        if count != expected:
            raise InputError(
                "E1307",
                f"passes.expect: {name} matched {count} times, not {expected}",
                fix="correct the number if the model is as it should be; otherwise the reasons above say what differs",
                details=tuple(f"{miss['place']}: {miss['reason']}" for miss in report["skipped"]),
                keys=(f"passes.expect.{name}",),
            )
