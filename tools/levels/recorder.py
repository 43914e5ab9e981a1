"""A pytest plugin for tests whose names end in ``[family-level]``: records a row per level as the tests end.

Whoever ends them loses nothing: with ``--go-on`` each level goes on behind the families that its row counts, which are
the first ones of the table. A level where one failed begins anew.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tools.reliability.results import CSV, Row, done_before, record, today

_NAME = re.compile(r"\[(?P<family>\w+)-(?P<level>[\w+-]+)\]$")


def where(level: str) -> str:
    """How a level's code is executed, for a row's note."""
    if level.startswith("aarch64"):
        return "under QEMU's user-mode emulator"
    return "on a processor that Bochs emulates" if level.startswith("x86-64-v4") else "on this machine's processor"


def level_of(name: str) -> str | None:
    """The level that a test's name ends in; None where it has none."""
    found = _NAME.search(name)
    return found["level"] if found else None


class Recorder:
    """The counts of every level."""

    def __init__(self, path: Path = CSV) -> None:
        self.path = path
        self.total, self.tried, self.failed = Counter[str](), Counter[str](), Counter[str]()
        self._wrong: set[str] = set()

    def rest(self, names: Sequence[str], go_on: bool) -> list[bool]:
        """Which tests are to run, given the names of all of them in their order."""
        wanted = []
        for name in names:
            level = level_of(name)
            if level is None:
                wanted.append(True)
                continue
            before = done_before(_check(level), 0, self.path) if go_on else 0
            self.total[level] += 1
            wanted.append(self.total[level] > before)
            self.tried[level] += self.total[level] <= before
        return wanted

    def phase(self, name: str, passed: bool, last: bool) -> None:
        """Takes what came of a test's preparation, call or tidying up; records its level after the last of them."""
        level = level_of(name)
        if level is None:
            return
        if not passed:
            self._wrong.add(name)
        if last:
            self.tried[level] += 1
            self.failed[level] += name in self._wrong
            record([self._row(level)], self.path)

    def _row(self, level: str) -> Row:
        tried, total = self.tried[level], self.total[level]
        part = "" if tried == total else f"the first of {total} "
        note = f"{part}kernel families, odd shapes, against NumPy in float64; executed {where(level)}"
        return Row(_check(level), tried, self.failed[level], 0, today(), note)


def _check(level: str) -> str:
    return f"kernels: {level}"


_RECORDER = pytest.StashKey[Recorder]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--go-on``."""
    parser.addoption("--go-on", action="store_true", help="behind the families that are recorded, level by level")


def pytest_configure(config: pytest.Config) -> None:
    """A recorder per run."""
    config.stash[_RECORDER] = Recorder()
    config.pluginmanager.register(_Reports(config.stash[_RECORDER]))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what is recorded."""
    wanted = config.stash[_RECORDER].rest([item.name for item in items], config.getoption("--go-on"))
    config.hook.pytest_deselected(items=[item for item, keep in zip(items, wanted) if not keep])
    items[:] = [item for item, keep in zip(items, wanted) if keep]


class _Reports:
    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            pytest.exit(f"{report.nodeid} was skipped, so that nothing can be said of its level", returncode=1)
        self.recorder.phase(report.nodeid.rpartition("::")[2], report.passed, report.when == "teardown")
