"""``python -m tools.levels``: executes every kernel family of the 512-bit levels and records the result.

Takes a quarter of an hour on an idle core. Needs what `machine.missing` lists.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tools.levels.machine import missing
from tools.reliability.results import ROOT, Row, record, today

TESTS = "tests/targets/kernels/test_wide_levels.py"


def rows(report: Path) -> list[Row]:
    """A row per level from pytest's JUnit XML.

    Raises:
        ValueError: a test was skipped, so that nothing can be said of its level.
    """
    tried: dict[str, int] = {}
    failed: dict[str, int] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name", "")
        if case.find("skipped") is not None:
            raise ValueError(f"{name} was skipped")
        level = "x86-64-v4" + name.rstrip("]").partition("x86-64-v4")[2]
        tried[level] = tried.get(level, 0) + 1
        failed[level] = failed.get(level, 0) + any(case.find(kind) is not None for kind in ("failure", "error"))
    note = (
        "kernel families executed on a processor that Bochs emulates, against NumPy in float64 (make test-wide-levels)"
    )
    return [Row(f"{level} kernels, emulated", tried[level], failed[level], 0, today(), note) for level in tried]


def main() -> int:
    """Runs the tests and records them; the exit status is pytest's."""
    lacking = missing()
    if lacking:
        print(lacking, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-v", TESTS, f"--junitxml={report}", *sys.argv[1:]]
        status = subprocess.run(command, cwd=ROOT, env={**os.environ, "XAMC_WIDE_LEVELS": "1"}).returncode
        if status in (0, 1):
            record(rows(report))
    return status


if __name__ == "__main__":
    sys.exit(main())
