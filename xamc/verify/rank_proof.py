"""Proves the division of a model among ranks on its twin: all ranks together against the undivided graph."""

from __future__ import annotations

import time
from collections.abc import Sequence

from xamc.ir.names import ALL_GATHER_OP, ALL_REDUCE_OP, MODULE_KEY
from xamc.ir.onnx_graph import dims
from xamc.ir.program import Program
from xamc.ir.tolerances import tolerance
from xamc.passes.graph.shard import ShardPlan
from xamc.passes.invariants import check_invariants
from xamc.passes.protocol import PassReport, SplitsRanks
from xamc.verify.metrics import output_error, relative_error
from xamc.verify.oracle import oracle_of
from xamc.verify.proof import Divergence, PassProof
from xamc.verify.ranks import merge_ranks, rank_name, split_call
from xamc.verify.scenario import Case

_COLLECTIVES = {ALL_REDUCE_OP: "all_reduce", ALL_GATHER_OP: "all_gather"}


def prove_split(splitter: SplitsRanks, twin: Program, cases: Sequence[Case]) -> PassProof:
    """Divides a twin and compares all ranks together with the undivided graph, in every call.

    Args:
        splitter: what divides.
        twin: the undivided graph after all other passes; it is not changed.
        cases: calls of the undivided graph with what it answered, as `ProofReport.cases` has them.

    Returns:
        The proof; its `divergence` names the first value that left the bound among those that ranks have whole: what a
        collective yields, and a rank's own values between two of them.

    Raises:
        InternalError: E1305 when a rank's graph breaks the IR's rules; E1333, E1334 from the division.
    """
    start = time.perf_counter()
    proof = PassProof(splitter.name, splitter.tolerance, tolerance(splitter.tolerance))
    programs = splitter.split(twin)
    for program in programs:
        check_invariants(program, splitter.name)
    proof.report = _report(programs)
    merged, plan = merge_ranks(programs), splitter.plan(twin)
    oracle = oracle_of(merged)
    for case in cases:
        feeds, expected = split_call(plan, case.feeds, case.fetches)
        found = oracle.run(feeds)
        for name, array in expected.items():
            error = output_error(found[name], array) if name in found else float("inf")
            if error > proof.worst or not proof.worst_at:
                proof.worst, proof.worst_at = error, f"{name} ({case.name})"
    if not proof.ok:
        proof.divergence = _bisect(proof, twin, programs, merged, plan, cases)
    proof.seconds = time.perf_counter() - start
    return proof


def _report(programs: Sequence[Program]) -> PassReport:
    report = PassReport({"rank": len(programs)})
    for node in programs[0].model.graph:
        if node.op_type in _COLLECTIVES:
            report.count(_COLLECTIVES[node.op_type])
    return report


def _bisect(
    proof: PassProof,
    before: Program,
    programs: Sequence[Program],
    merged: Program,
    plan: ShardPlan,
    cases: Sequence[Case],
) -> Divergence | None:
    """The first value that ranks have whole and that differs from the undivided graph's value of its name."""
    shapes = {str(value.name): dims(value) for node in before.model.graph for value in node.outputs}
    merged_names = {value.name for node in merged.model.graph for value in node.outputs}
    places: list[tuple[str, str, str, str]] = []
    for node in programs[0].model.graph:
        for value in node.outputs:
            name = str(value.name)
            if name not in shapes or shapes[name] != dims(value):
                continue
            module = node.metadata_props.get(MODULE_KEY) or "the model"
            names = [name] if name in merged_names else [rank_name(share.rank, name) for share in plan.shares]
            places += [(name, mine, node.op_type, module) for mine in names]
    whole = oracle_of(before, extra_outputs=[name for name, *_ in places])
    parts = oracle_of(merged, extra_outputs=[mine for _, mine, *_ in places])
    for case in cases:
        expected, found = whole.run(case.feeds), parts.run(split_call(plan, case.feeds, {})[0])
        for name, mine, op, module in places:
            error = relative_error(found[mine], expected[name])
            if error > proof.bound:
                return Divergence(mine, op, module, error)
    return None
