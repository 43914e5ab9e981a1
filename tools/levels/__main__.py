"""``python -m tools.levels SUITE``: executes every kernel family of some CPU levels and records what came of it.

- ``narrow``: x86-64, x86-64-v2 and x86-64-v3 on this machine, aarch64's under QEMU; some minutes (`make test-levels`).
- ``wide``: those of 512 bits on a machine that Bochs emulates; about half an hour (`make test-wide-levels`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.levels.machine import missing
from tools.reliability.results import ROOT, Row, record, today


@dataclass(frozen=True)
class Suite:
    """Tests whose names end in the family and the level, and the environment variable that makes them run."""

    file: str
    variable: str


SUITES = {
    "narrow": Suite("tests/targets/kernels/test_weaker_levels.py", "XAMC_ALL_LEVELS"),
    "wide": Suite("tests/targets/kernels/test_wide_levels.py", "XAMC_WIDE_LEVELS"),
}


def where(level: str) -> str:
    """How a level's code is executed, for a row's note."""
    if level.startswith("aarch64"):
        return "under QEMU's user-mode emulator"
    return "on a processor that Bochs emulates" if level.startswith("x86-64-v4") else "on this machine's processor"


def rows(report: Path) -> list[Row]:
    """A row per level from pytest's JUnit XML.

    Raises:
        ValueError: a test was skipped, so that nothing can be said of its level.
    """
    tried: dict[str, int] = {}
    failed: dict[str, int] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name", "")
        level = name.partition("[")[2].rstrip("]").partition("-")[2]
        if case.find("skipped") is not None:
            raise ValueError(f"{name} was skipped")
        if level:
            tried[level] = tried.get(level, 0) + 1
            failed[level] = failed.get(level, 0) + any(case.find(kind) is not None for kind in ("failure", "error"))
    return [
        Row(
            f"kernels: {level}",
            tried[level],
            failed[level],
            0,
            today(),
            f"kernel families, odd shapes, against NumPy in float64; executed {where(level)}",
        )
        for level in tried
    ]


def run(suite: str, more: Sequence[str] = ()) -> int:
    """Runs a suite's tests and records them; the exit status is pytest's, 1 where something is missing."""
    lacking = missing() if suite == "wide" else None
    if lacking:
        print(lacking, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-v", SUITES[suite].file, f"--junitxml={report}", *more]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", SUITES[suite].variable: "1"}
        status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        if status in (0, 1):
            record(rows(report))
    return status


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=SUITES)
    options, more = parser.parse_known_args()
    return run(options.suite, more)


if __name__ == "__main__":
    sys.exit(main())
