"""The row of docs/reliability.md that says on which processor the suite has passed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cpu_level.emulated_level import python_path
from tools.reliability import suite
from tools.reliability.results import ROOT, Row, read
from xamc.jobs.processor import cpu_model
from xamc.targets.kernels.isa import Isa

TESTS = """
import pytest
def test_good(): pass
def test_wrong(): assert not WRONG
def test_skipped(): pytest.skip("for a reason")
@pytest.fixture
def late():
    yield
    assert not WRONG
def test_tidied_up_wrongly(late): pass
"""
PROGRAM = (
    "import pathlib, sys, pytest, tools.reliability.suite as s\n"
    "s.Recorder.__init__.__defaults__ = (pathlib.Path('results.csv'),)\n"
    "sys.exit(pytest.main(['-q', '-p', 'tools.reliability.suite', *sys.argv[1:]]))\n"
)


@pytest.fixture
def rows(tmp_path: Path) -> object:
    """Runs a suite with some arguments, and returns what is recorded then."""
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    (tmp_path / "tests").mkdir()

    def run(wrong: bool, *arguments: str) -> list[Row]:
        (tmp_path / "tests" / "test_it.py").write_text(TESTS.replace("WRONG", str(wrong)))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            cwd=tmp_path, env={**environment, "PYTHONPATH": python_path(ROOT)}, capture_output=True, check=False,
        )  # fmt: skip
        return read(tmp_path / "results.csv")

    return run


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_whole_run_is_recorded_by_the_processor_s_name(rows, workers: str) -> None:  # type: ignore[no-untyped-def]
    (row,) = rows(False, "-n", workers)
    assert row.check.startswith(f"tests: {cpu_model()}, {Isa.host().name}") and (row.tried, row.failed) == (3, 0)
    assert "1 others skipped" in row.note
    (row,) = rows(True, "-n", workers)
    assert (row.tried, row.failed) == (3, 2), "also what fails behind a test's end"


@pytest.mark.parametrize("part", [["-k", "good"], ["tests/test_it.py"], ["-x"]], ids=" ".join)
def test_a_part_is_not(rows, part: list[str]) -> None:  # type: ignore[no-untyped-def]
    assert rows("-x" in part, "-n", "0", *part) == []


def test_another_level_has_a_row_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XAMC_TEST_LEVEL", raising=False)
    own = suite.check_name()
    monkeypatch.setenv("XAMC_TEST_LEVEL", Isa.host().name)
    assert suite.check_name() == f"{own}, by XAMC_TEST_LEVEL"


def test_where_it_has_passed_it_does_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "done_before", lambda check, seed: 7 if check == suite.check_name() else 0)
    monkeypatch.setattr(subprocess, "run", lambda *command, **options: subprocess.CompletedProcess(command, 3))
    assert suite.run(go_on=True) == 0 and suite.run(go_on=False) == 3
