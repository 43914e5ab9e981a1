"""A hanging test fails by name, and the others of its file still run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = """
import subprocess, threading

def test_before(): pass
def test_process(): subprocess.run(["sleep", "300"])
def test_lock(): threading.Lock().acquire() and threading.Event().wait()
def test_after(): pass
"""


def test_a_test_that_hangs_fails_alone(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text("from tests.hangs import pytest_runtest_protocol  # noqa: F401\n")
    environment = {**os.environ, "XAMC_TEST_SECONDS": "0.5", "PYTHONPATH": str(repository)}
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-n", "1", "test_some.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "2 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert "test_process took longer than 0.5 s" in done.stdout
    for name in ("test_before", "test_after"):
        assert f"PASSED test_some.py::{name}" in done.stdout
