"""`python -m tools.bench.onnx_nodes`: the ONNX project's node tests through the generic route, counted per operator.

Every case of `onnx.backend.test.case.node` is compiled for x86-64-v3 with the functions of `xamc compile`, run and
compared with the outputs that ship with it, within its own tolerances. Each runs in a fork, which may crash. Results
are a row per case (onnx_nodes.csv) and a page with a row per operator (onnx_nodes.md); cases that are not run keep the
row of an earlier run.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import re
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tools.bench.node_case import AS_CONSTANTS, FAILED, PASSED, REFUSED, STATES, WRONG, compile_here, in_fork, run_case
from tools.bench.pages import PAGES
from tools.reliability import results
from xamc.jobs.cache import tool_version

SECONDS = 120.0
_CSV = "onnx_nodes.csv"
_BODY = " (as a function)"
_LONGEST_REASON = 160
_TOOLS = ("onnx", "onnxscript", "apache-tvm")
_MODULES = (
    "tvm.relax.frontend.onnx",
    "xamc.compiler.frontends.onnx.model",
    "xamc.compiler.frontends.onnx.weights",
    "xamc.passes.lowering.index_bounds",
    "xamc.targets.onnx.build",
)


@dataclass(frozen=True)
class Row:
    """A line of the csv: a case, its operator (``domain::name`` outside of ONNX's own), and what became of it."""

    operator: str
    case: str
    state: str
    reason: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", nargs="+", help="of onnx.backend.test.case.node, e.g. conv relu; default: all")
    parser.add_argument("--cases", metavar="REGEX", default="", help="cases whose names it matches; default: all")
    parser.add_argument(
        "--keep", nargs="+", default=[], choices=STATES, help="states of the earlier run's cases that are not run again"
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no case after this time")
    parser.add_argument("--out", type=Path, default=PAGES)
    options = parser.parse_args(arguments)
    started = time.monotonic()
    cases = node_cases(options.modules)
    every = {case.name for case in cases} if options.modules is None else None
    rows = {row.case: row for row in read_rows(options.out / _CSV)}
    wanted = [case for case in cases if re.search(options.cases, case.name)]
    wanted = [case for case in wanted if case.name not in rows or rows[case.name].state not in options.keep]
    print(f"{len(wanted)} cases", flush=True)
    for number, row in enumerate(run_all(wanted, operators_of(cases)), 1):
        rows[row.case] = row
        late = time.monotonic() - started > options.seconds
        if number % 50 == 0 or late:  # a run takes long: what it has so far is not lost
            print(f"[{time.monotonic() - started:5.0f} s] {number} of {len(wanted)}", flush=True)
            write(list(rows.values()), options.out, every)
        if late:
            break
    write(list(rows.values()), options.out, every)
    print(", ".join(f"{count} {state}" for state, count in Counter(row.state for row in rows.values()).most_common()))
    if options.out == PAGES and every is not None and every <= rows.keys():
        results.record([summary(list(rows.values()))])
    return 0


def summary(rows: Sequence[Row]) -> results.Row:
    """The row of docs/reliability.md: wrong numbers and crashes are failures, operators refused by name are not."""
    total = Counter(row.state for row in rows)
    passed, refused = total[PASSED] + total[AS_CONSTANTS], total[REFUSED]
    note = f"{passed:,} pass ({passed / max(1, len(rows)):.1%}), {refused:,} are refused by name"
    return results.Row("onnx node tests", len(rows), total[WRONG] + total[FAILED], 0, results.today(), note)


def node_cases(modules: Sequence[str] | None = None) -> list[Any]:
    """onnx's TestCases: of all operators, which takes half a minute, or of some modules."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        node = importlib.import_module("onnx.backend.test.case.node")
        if modules is None:
            return list(node.collect_testcases(None))
        for module in modules:
            importlib.import_module(f"onnx.backend.test.case.node.{module}")
        found: list[Any] = list(node._NodeTestCases)
        return found


def operators_of(cases: Iterable[Any]) -> dict[str, str]:
    """Case → the operator that it is about."""
    cases = list(cases)
    found = {case.name: _first(case) for case in cases if "_expanded" not in case.name}
    for case in cases:
        whole = case.name.partition("_expanded")[0]
        if case.name not in found:  # the same operator, written out as the function that it is
            found[case.name] = f"{found.get(whole, _first(case))}{_BODY}"
    return found


def _first(case: Any) -> str:
    domain, name = case.model.graph.node[0].domain, case.model.graph.node[0].op_type
    return f"{domain}::{name}" if domain not in ("", "ai.onnx") else name


def run_all(cases: Iterable[Any], operators: Mapping[str, str]) -> Iterable[Row]:
    """Rows, in the order of operators and cases.

    Args:
        cases: those to run.
        operators: of `operators_of`, for all cases: one that was written out is of the operator of the whole one.
    """
    # imported once, here, for all forks; what a running tool tests doesn't change under its feet either
    for module in _MODULES:
        importlib.import_module(module)
    for case in sorted(cases, key=lambda case: (_BODY in operators[case.name], operators[case.name].lower())):
        outcome = in_fork(lambda case=case: run_case(case, compile_here), SECONDS)  # type: ignore[misc]
        reason = " ".join(outcome.reason.split())
        shown = reason if len(reason) <= _LONGEST_REASON else reason[: _LONGEST_REASON - 1] + "…"
        yield Row(operators[case.name], case.name, outcome.state, shown)


def read_rows(path: Path) -> list[Row]:
    """The rows of an earlier run; none if there was none."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [Row(**row) for row in csv.DictReader(file)]


def write(rows: Sequence[Row], out: Path, every: Set[str] | None = None) -> None:
    """Writes onnx_nodes.csv and onnx_nodes.md; of `every` case of the package those without a row are counted."""
    out.mkdir(parents=True, exist_ok=True)
    left = len((every or set()) - {row.case for row in rows})
    rows = sorted(rows, key=lambda row: (row.operator.lower(), row.case))
    with (out / _CSV).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    (out / "onnx_nodes.md").write_text(page(rows, left), encoding="utf-8")


def page(rows: Sequence[Row], left: int = 0) -> str:
    """The page: totals, then a row per operator; `left` cases have not been run."""
    total = Counter(row.state for row in rows)
    passed = total[PASSED] + total[AS_CONSTANTS]
    operators: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        operators[row.operator].append(row)
    lines = [
        "# ONNX's node tests",
        "",
        "Written by `python -m tools.bench.onnx_nodes`; every case is in [onnx_nodes.csv](onnx_nodes.csv).",
        "The cases are those of the `onnx` package, its expected outputs and tolerances; they take the route of",
        "[ONNX models](../onnx.md): simplification, TVM's importer, code for x86-64-v3, run on this CPU.",
        "Expected results in bfloat16 were rounded after every operator: they may be off by `node_bfloat16`",
        "(`xamc/ir/tolerances.py`) of the largest element where the case's own tolerance is smaller.",
        ", ".join(f"{tool} {tool_version(tool)}" for tool in _TOOLS) + ".",
        "",
        f"**{passed} of {len(rows)} cases pass ({passed / max(1, len(rows)):.1%})**, and "
        f"{sum(all(r.state in (PASSED, AS_CONSTANTS) for r in group) for group in operators.values())} of "
        f"{len(operators)} operators pass every case.",
        *([f"{left} further cases have not been run."] if left else []),
        "Cases that a run left out (`--cases`, `--keep`, `--seconds`) are as an earlier run left them.",
        "",
        "| | cases | what it means |",
        "|---|---:|---|",
        f"| passed | {total[PASSED]} | as the test is |",
        f"| passed, constants | {total[AS_CONSTANTS]} | with operands that say how large the result is (shapes, axes, "
        "sizes) as constants, as models have them |",
        f"| refused | {total['refused']} | an error names the operator and the reason before any code is made |",
        f"| wrong | {total['wrong']} | other numbers, another shape or type than expected; a compile of a model with "
        "such a node ends in E1474, for it is compared with ONNX Runtime |",
        f"| failed | {total['failed']} | TVM crashed or raised; a compile ends in an error with the log |",
        "",
        "| operator | cases | passed | constants | refused | wrong | failed | pass rate |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for operator, group in sorted(operators.items(), key=lambda item: item[0].lower()):
        count = Counter(row.state for row in group)
        rate = (count[PASSED] + count[AS_CONSTANTS]) / len(group)
        cells = " | ".join(str(count[state] or "") for state in STATES)
        lines.append(f"| {operator} | {len(group)} | {cells} | {rate:.0%} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
