"""Runs a target's list of passes over a program: disables, times, checks invariants and expected counts."""

from __future__ import annotations

import difflib
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xamc.errors import InputError, InternalError, XamcError
from xamc.ir.program import Program
from xamc.passes.invariants import check_invariants
from xamc.passes.protocol import GraphPass, PassReport
from xamc.passes.rules import GRAPH_RULES

# words of passes.expect for what the export itself yields
_EXPORTED = {"attention": "Attention", "rope": "RotaryEmbedding", "norm": "RMSNormalization"}


@dataclass(frozen=True)
class PassRun:
    """One pass as it ran: what it did and how long it and its checks took, in seconds."""

    name: str
    report: PassReport
    seconds: float


def run_passes(
    program: Program,
    passes: Sequence[GraphPass],
    *,
    disable: Collection[str] = (),
    expect: Mapping[str, int] | None = None,
    elsewhere: Collection[str] = (),
    on_pass: Callable[[PassRun, Program], None] | None = None,
) -> list[PassRun]:
    """Runs `passes` in order over `program`, in place, and checks the structural invariants after each.

    Args:
        program: what is rewritten.
        passes: the target's list.
        disable: names of passes to leave out (`passes.disable`).
        expect: number of rewrites by name (`passes.expect`): a pass, one of its rules, or attention, rope and norm for
            the operators of the export.
        elsewhere: names that `disable` and `expect` may hold and that another stage answers for (Relax passes).
        on_pass: called after each pass, for dumps and progress.

    Raises:
        InputError: E1306, a name that no pass has; E1307, another count than expected.
        InternalError: E1305, a pass broke the IR's rules.
    """
    expected = dict(expect or {})
    operators = Counter(node.op_type for node in program.model.graph if node.domain == "")
    active = select_passes(passes, disable, elsewhere)
    runs: list[PassRun] = []
    for graph_pass in active:
        start = time.perf_counter()
        report = apply_pass(graph_pass, program)
        run = PassRun(graph_pass.name, report, time.perf_counter() - start)
        runs.append(run)
        if on_pass is not None:
            on_pass(run, program)
    _check_expected(expected, runs, operators, [p.name for p in passes], elsewhere)
    return runs


def apply_pass(graph_pass: GraphPass, program: Program) -> PassReport:
    """Runs one pass over `program`, in place, and checks the structural invariants after it.

    Raises:
        InternalError: E1313, the pass stopped with an error of its own; E1305, it broke the IR's rules.
    """
    try:
        report = graph_pass.run(program)
    except XamcError:
        raise
    except Exception as error:
        raise InternalError(
            "E1313",
            f"{graph_pass.name} stopped: {type(error).__name__}: {error}",
            fix=f"compile with passes.disable: [{graph_pass.name}] if the target allows it, and report this model",
        ) from error
    check_invariants(program, after=graph_pass.name)
    return report


def select_passes(
    passes: Sequence[GraphPass],
    disable: Collection[str],
    elsewhere: Collection[str] = (),
    required: Collection[str] = (),
) -> list[GraphPass]:
    """`passes` without the disabled ones.

    Raises:
        InputError: E1306, a name in `disable` that no pass has; E1314, one that the target can't do without.
    """
    names = [graph_pass.name for graph_pass in passes]
    for index, name in enumerate(disable):
        _require_disabled(index, name, [*names, *elsewhere], required)
    return [graph_pass for graph_pass in passes if graph_pass.name not in disable]


def require_known_names(
    disable: Collection[str], expect: Collection[str], names: Sequence[str], required: Collection[str]
) -> None:
    """Refuses names that no pass of a target has, before a program is there to run them on.

    Args:
        disable: `passes.disable`.
        expect: the names of `passes.expect`.
        names: the target's passes.
        required: those that it can't do without.

    Raises:
        InputError: E1306, a name that no pass has, nor, in `expect`, a rule; E1314, a disabled pass that is required.
    """
    for index, name in enumerate(disable):
        _require_disabled(index, name, names, ())
    for name in expect:
        if name not in names and name not in _EXPORTED and name not in GRAPH_RULES:
            raise _unknown(name, (f"passes.expect.{name}", "passes.expect"), [*names, *_EXPORTED])
    for index, name in enumerate(disable):
        _require_disabled(index, name, names, required)


def _require_disabled(index: int, name: str, known: Sequence[str], required: Collection[str]) -> None:
    keys = (f"passes.disable.{index}", "passes.disable")
    if name not in known:
        raise _unknown(name, keys, known)
    if name in required:
        raise InputError(
            "E1314",
            f"passes.disable: this target can't do without {name}",
            fix=f"remove {name} from passes.disable, or compile for backend.type: reference",
            keys=keys,
        )


def _check_expected(
    expected: Mapping[str, int],
    runs: Sequence[PassRun],
    operators: Mapping[str, int],
    names: Sequence[str],
    elsewhere: Collection[str],
) -> None:
    counts: Counter[str] = Counter({word: operators[op] for word, op in _EXPORTED.items()})
    skipped: dict[str, list[str]] = {}
    for run in runs:
        for rule, count in run.report.matched.items():
            if rule not in _EXPORTED:
                counts[rule] += count
        counts[run.name] = run.report.total
        skipped[run.name] = [f"{miss.place}: {miss.reason}" for miss in run.report.skipped]
    for name, count in expected.items():
        if name in elsewhere and name not in counts:
            # a pass of another stage, which checks its own count
            continue
        if name not in counts and name not in names:
            raise _unknown(name, (f"passes.expect.{name}", "passes.expect"), sorted({*counts, *names, *elsewhere}))
        if counts[name] != count:
            raise _miscounted(name, counts[name], count, skipped.get(name, ()))


def check_counts(expect: Mapping[str, int], passes: Sequence[Mapping[str, Any]]) -> None:
    """Compares `passes.expect` with the counts of passes that a target ran itself.

    Args:
        expect: number of rewrites by name.
        passes: reports: ``name``, ``matched`` (rule -> count), ``skipped`` with ``place`` and ``reason``.

    Raises:
        InputError: E1307 naming the pass, both numbers, and where and why it did not match.
    """
    for report in passes:
        name, count = report["name"], sum(report["matched"].values())
        if expect.get(name, count) != count:
            raise _miscounted(
                name, count, expect[name], [f"{miss['place']}: {miss['reason']}" for miss in report["skipped"]]
            )


def _miscounted(name: str, count: int, expected: int, reasons: Sequence[str]) -> InputError:
    return InputError(
        "E1307",
        f"passes.expect: {name} matched {count} times, not {expected}",
        fix="correct the number if the model is as it should be; otherwise the reasons above say what differs",
        details=tuple(reasons),
        keys=(f"passes.expect.{name}",),
    )


def _unknown(name: str, keys: tuple[str, ...], known: Sequence[str]) -> InputError:
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    return InputError("E1306", f"{keys[-1]}: no pass is called {name!r}", fix=hint, keys=keys)
