"""Proves a list of passes on a twin: runs it before and after every pass, and names what first went wrong."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from xamc.errors import InternalError
from xamc.ir.names import MODULE_KEY
from xamc.ir.program import Program
from xamc.ir.tolerances import tolerance
from xamc.passes.invariants import check_invariants
from xamc.passes.protocol import (
    AcceptsCalls,
    ChangesWeights,
    GraphPass,
    MergesRows,
    PassReport,
    RoundsFeeds,
    ShowsValues,
    Tensors,
)
from xamc.passes.runner import apply_pass
from xamc.verify.metrics import Array, output_error, relative_error
from xamc.verify.oracle import Oracle, materialize
from xamc.verify.scenario import BATCH, Case

EXPORT = "export"
RAGGED = "ragged"


@dataclass(frozen=True)
class Divergence:
    """The first value, in topological order, that left its tolerance, and where it was computed.

    `module` is the Hugging Face module path of the node; `suspects` are the operators that the pass added upstream of
    it, which have no counterpart before the pass.
    """

    value: str
    op: str
    module: str
    error: float
    suspects: tuple[str, ...] = ()

    def __str__(self) -> str:
        new = f"; added by the pass upstream of it: {', '.join(self.suspects)}" if self.suspects else ""
        return f"{self.op} {self.value!r} in {self.module} is off by {self.error:.2g}{new}"


@dataclass
class PassProof:
    """What the twin showed for one pass.

    Attributes:
        name: the pass, or "export" for the exported graph against transformers.
        tolerance: name of the bound.
        bound: its value.
        worst: the largest relative error of any output in any call.
        worst_at: that output and call.
        cost: largest relative error of the logits that a change of the stored weights, or the rounding of a call's
            feeds, brings by itself; 0 for passes that keep both. Not compared with the bound: it is the price of the
            storage, not a defect.
        divergence: set when `worst` exceeds `bound`.
        seconds: time the pass and its proof took on the twin.
    """

    name: str
    tolerance: str
    bound: float
    report: PassReport = field(default_factory=PassReport)
    worst: float = 0.0
    worst_at: str = ""
    cost: float = 0.0
    divergence: Divergence | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every output stayed within the bound."""
        return self.worst <= self.bound


@dataclass
class ProofReport:
    """The proofs of all passes up to the first failure, in order; `cases` are the calls in the last graph's form."""

    passes: list[PassProof]
    seconds: float
    cases: list[Case]

    @property
    def failed(self) -> PassProof | None:
        """The first pass that left its tolerance."""
        return next((proof for proof in self.passes if not proof.ok), None)

    @property
    def worst(self) -> PassProof:
        """The pass that moved the outputs most."""
        return max(self.passes, key=lambda proof: proof.worst)

    def require(self, required: Collection[str] = (), instead: str = "") -> ProofReport:
        """Returns itself.

        Args:
            required: names of passes that the target can't do without, which the error must not advise to disable.
            instead: what to ask for to get by without a required pass, if there is such a thing.

        Raises:
            InternalError: E1309 naming the first wrong pass, and the first wrong node with its module.
        """
        proof = self.failed
        if proof is None:
            return self
        where = f"; first wrong: {proof.divergence}" if proof.divergence is not None else ""
        raise InternalError(
            "E1309",
            f"{proof.name} changed the model's outputs: {proof.worst_at} is off by {proof.worst:.2g}, "
            f"allowed is {proof.bound:.2g} ({proof.tolerance}){where}",
            fix=_advice(proof.name, required, instead),
        )


def _advice(name: str, required: Collection[str], instead: str) -> str:
    if name == EXPORT:
        return "install the transformers version of constraints.txt (xamc doctor), or report this model"
    if name in required:
        return f"report this model; the target can't do without {name}" + (f", but {instead}" if instead else "")
    return f"compile with passes.disable: [{name}], and report this model"


def prove(passes: Sequence[GraphPass], twin: Program, cases: Sequence[Case]) -> ProofReport:
    """Runs `passes` over the twin, in place, and compares its outputs before and after each.

    The exported twin is first compared with transformers' answers in `cases`. Each pass is compared with the graph
    right before it, so errors do not add up and the first wrong pass is the one that is named. A pass that changes
    the signature adapts feeds and expected fetches; once a pass merges rows, the single-row calls go on as one ragged
    call per step. Calls that the graph after a pass can't serve are left out from there on.

    Returns:
        The report; it stops at the first pass that left its tolerance.

    Raises:
        InternalError: E1325, a pass accepts none of the calls, so nothing would be compared.
    """
    start = time.perf_counter()
    check_invariants(twin)
    weights = materialize(twin.weights)
    oracle = Oracle(twin.model, weights)
    current = [Case(case.run, case.step, dict(case.feeds), oracle.run(case.feeds)) for case in cases]
    exported = PassProof(EXPORT, "export_fp32", tolerance("export_fp32"))
    for mine, theirs in zip(current, cases, strict=True):
        _compare(exported, mine.name, mine.fetches, theirs.fetches)
    if not exported.ok:
        # transformers' intermediate values are not at hand: the output that is off is all there is
        name = exported.worst_at.split(" ")[0]
        output = next(value for value in twin.model.graph.outputs if value.name == name)
        exported.divergence = _at(output, exported.worst)
    exported.seconds = time.perf_counter() - start
    proofs = [exported]
    for graph_pass in passes:
        if not proofs[-1].ok:
            break
        proof, current, weights = _prove_one(graph_pass, twin, current, weights)
        proofs.append(proof)
    return ProofReport(proofs, time.perf_counter() - start, current)


def _prove_one(
    graph_pass: GraphPass, twin: Program, cases: list[Case], weights: dict[str, Array]
) -> tuple[PassProof, list[Case], dict[str, Array]]:
    start = time.perf_counter()
    proof = PassProof(graph_pass.name, graph_pass.tolerance, tolerance(graph_pass.tolerance))
    before = twin.model.clone()
    proof.report = apply_pass(graph_pass, twin)
    cases = _accepted(graph_pass, cases)
    if isinstance(graph_pass, ShowsValues):
        cases = _shown(graph_pass.shown_values(before), before, weights, cases)
    stored = materialize(twin.weights)
    reference = weights
    if isinstance(graph_pass, ChangesWeights | RoundsFeeds):
        exact = cases
        if isinstance(graph_pass, ChangesWeights):
            reference = graph_pass.decoded_weights(weights, stored)
        oracle = Oracle(before, reference)
        feeds = [graph_pass.decoded_feeds(c.feeds) if isinstance(graph_pass, RoundsFeeds) else c.feeds for c in exact]
        cases = [Case(c.run, c.step, given, oracle.run(given)) for c, given in zip(exact, feeds, strict=True)]
        proof.cost = max(relative_error(c.fetches["logits"], e.fetches["logits"]) for c, e in zip(cases, exact))
    adapted = _adapt(graph_pass, cases)
    after = Oracle(twin.model, stored)
    results = [after.run(case.feeds) for case in adapted]
    for case, result in zip(adapted, results, strict=True):
        _compare(proof, case.name, result, case.fetches)
    if not proof.ok:
        proof.divergence = _bisect(proof, before, reference, cases, twin.model, stored, adapted)
    proof.seconds = time.perf_counter() - start
    # what the graph does now is the reference of the next pass; NaNs of a merged call are gone with it
    following = [Case(case.run, case.step, case.feeds, result) for case, result in zip(adapted, results, strict=True)]
    return proof, following, stored


def _shown(shown: Mapping[str, str], before: ir.Model, weights: Tensors, cases: list[Case]) -> list[Case]:
    """The calls with values from inside the graph in place of its outputs."""
    oracle = Oracle(before, weights, extra_outputs=list(shown.values()))
    results = [oracle.run(case.feeds) for case in cases]
    return [
        Case(case.run, case.step, case.feeds, {**case.fetches, **{name: found[value] for name, value in shown.items()}})
        for case, found in zip(cases, results, strict=True)
    ]


def _accepted(graph_pass: GraphPass, cases: list[Case]) -> list[Case]:
    """The calls that the graph after the pass can serve; all of them unless the pass says otherwise."""
    if not isinstance(graph_pass, AcceptsCalls):
        return cases
    accepted = [case for case in cases if graph_pass.accepts(case.feeds)]
    if not accepted:
        raise InternalError(
            "E1325",
            f"{graph_pass.name} accepts none of the {len(cases)} calls of the proof, so it can't be proven",
            fix="choose a static length of the twin that one of the calls fits in",
            details=tuple(case.name for case in cases),
        )
    return accepted


def _adapt(graph_pass: GraphPass, cases: Sequence[Case]) -> list[Case]:
    if not isinstance(graph_pass, MergesRows):
        return [Case(case.run, case.step, *graph_pass.adapt(case.feeds, case.fetches)) for case in cases]
    adapted = [
        Case(case.run, case.step, *graph_pass.adapt(case.feeds, case.fetches)) for case in cases if case.run == BATCH
    ]
    for step, rows in _rows_by_step(cases).items():
        merged = graph_pass.merge_rows([(case.feeds, case.fetches) for case in rows])
        adapted.append(Case(RAGGED, step, *merged))
    return adapted


def _rows_by_step(cases: Sequence[Case]) -> dict[int, list[Case]]:
    rows: dict[int, list[Case]] = {}
    for case in cases:
        if case.run != BATCH:
            rows.setdefault(case.step, []).append(case)
    return rows


def _compare(proof: PassProof, call: str, actual: Tensors, expected: Tensors) -> None:
    for name in expected:
        error = output_error(actual[name], expected[name]) if name in actual else float("inf")
        if error > proof.worst or not proof.worst_at:
            proof.worst, proof.worst_at = error, f"{name} ({call})"


def _bisect(
    proof: PassProof,
    before: ir.Model,
    reference: Tensors,
    old_cases: Sequence[Case],
    after: ir.Model,
    stored: Tensors,
    new_cases: Sequence[Case],
) -> Divergence | None:
    """The first node of the graph after the pass whose value differs from the value of the same name before it."""
    old_names = {value.name for node in before.graph for value in node.outputs}
    shared = [str(v.name) for node in after.graph for v in node.outputs if v.name in old_names and v.name]
    old_oracle, new_oracle = (
        Oracle(before, reference, extra_outputs=shared),
        Oracle(after, stored, extra_outputs=shared),
    )
    rows = _rows_by_step(old_cases)
    for case in new_cases:
        values = new_oracle.run(case.feeds)
        if case.run == RAGGED and any(old.run != RAGGED for old in old_cases if old.run != BATCH):
            olds = [old_oracle.run(row.feeds) for row in rows[case.step]]
        else:
            same = next(old for old in old_cases if (old.run, old.step) == (case.run, case.step))
            olds = [old_oracle.run(same.feeds)]
        for node in after.graph:
            for value in node.outputs:
                name = str(value.name)
                if name not in shared or all(name not in old for old in olds):
                    continue
                error = _value_error(values[name], [old[name] for old in olds])
                if error > proof.bound:
                    return _at(value, error, old_names)
    # no intermediate value has a counterpart: the worst output is all there is to name
    name = proof.worst_at.split(" ")[0]
    return next((_at(value, proof.worst, old_names) for value in after.graph.outputs if value.name == name), None)


def _value_error(new: Array, olds: Sequence[Array]) -> float:
    """Error of a value against its counterpart, or of each padded row against that row alone; 0 if incomparable."""
    if len(olds) == 1:
        return relative_error(new, olds[0]) if new.shape == olds[0].shape else 0.0
    worst = 0.0
    for row, old in enumerate(olds):
        if new.ndim != old.ndim or new.ndim == 0 or old.shape[0] != 1 or row >= new.shape[0]:
            return 0.0
        part = new[row : row + 1]
        if any(have < want for have, want in zip(part.shape, old.shape, strict=True)):
            return 0.0
        worst = max(worst, relative_error(part[tuple(slice(size) for size in old.shape)], old))
    return worst


def _at(value: ir.Value, error: float, old_names: set[str | None] | None = None) -> Divergence:
    node = value.producer()
    assert node is not None
    module = node.metadata_props.get(MODULE_KEY, "")
    suspects: list[str] = []
    stack, seen = [node], {node}
    while stack and old_names is not None:
        here = stack.pop()
        if here is not node and any(output.name in old_names for output in here.outputs):
            continue
        if here is not node and here.op_type != "Constant":
            suspects.append(f"{here.op_type} {here.outputs[0].name!r}")
        for operand in here.inputs:
            producer = operand.producer() if operand is not None else None
            if producer is not None and producer not in seen:
                seen.add(producer)
                stack.append(producer)
    return Divergence(str(value.name), node.op_type, module or "the model", error, tuple(suspects))
