"""A pytest plugin for the whole suite: records how it went on this machine's processor (`make test RECORD=1`).

A run of a part, or one that was ended, records nothing. The processor is named as Linux names it. With XAMC_TEST_LEVEL
the row is that level's, of code in which this machine's instructions stand for it.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tools.reliability.results import CSV, ROOT, Row, done_before, record, today
from xamc.jobs.processor import cpu_model
from xamc.targets.kernels.isa import Isa


def check_name() -> str:
    """The row's name: processor, level, and whether another level than the processor's was asked for."""
    asked = ", by XAMC_TEST_LEVEL" if os.environ.get("XAMC_TEST_LEVEL") else ""
    return f"tests: {cpu_model()}, {Isa.host().name}{asked}"


def run(go_on: bool = False) -> int:
    """Runs and records the whole suite; with `go_on` not where it has passed here. The exit status is make's."""
    if go_on and done_before(check_name(), 0):
        return 0
    return subprocess.run(["make", "test", "RECORD=1"], cwd=ROOT, check=False).returncode


class Recorder:
    """What became of each test; of its preparation, call and tidying up the worst counts."""

    def __init__(self, path: Path = CSV) -> None:
        self.path = path
        self._came: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of a test ended, in this process or a worker's."""
        before = self._came.get(report.nodeid)
        if report.failed or before is None or before == "passed":
            self._came[report.nodeid] = report.outcome

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Records the row where all tests of the suite have ended."""
        config = session.config
        part = config.option.keyword or config.option.markexpr or list(config.args) != config.getini("testpaths")
        if part or not self._came or len(self._came) < session.testscollected:
            return
        count = Counter(self._came.values())
        note = f"the whole suite (make test), {count['skipped']} others skipped for what the machine lacks"
        tried = count["passed"] + count["failed"]
        record([Row(check_name(), tried, count["failed"], 0, today(), note)], self.path)


def pytest_configure(config: pytest.Config) -> None:
    """Loads the plugin in the process that hears of all tests."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder())
