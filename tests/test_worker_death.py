"""A test that kills its process ends the whole run: red, within seconds, and named."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

FILES = {
    # The last test of its file: where xdist goes on, the file's next process waits for a second one for ever.
    "test_a.py": "import os, time\ndef test_a(): pass\ndef test_deadly(): time.sleep(1); os.kill(os.getpid(), 9)\n",
    "test_b.py": "def test_b(): pass\ndef test_more(): pass\n",
    "test_c.py": "def test_c(): pass\ndef test_more(): pass\n",
    "test_d.py": "def test_d(): pass\ndef test_more(): pass\n",
}
SECONDS = 60
"""Until a run counts as hanging; it takes five."""


def makefile_options(repository: Path) -> list[str]:
    """What `make test` says to xdist."""
    found = re.search(r"-m pytest (-q -n .*?) \$\(if", (repository / "Makefile").read_text())
    assert found
    return shlex.split(found[1].replace("$(XDIST)", "2"))


def run(folder: Path, repository: Path, options: list[str], more: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(f'pytest_plugins = ["tests.worker_death"]\n{more}')
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip


def test_a_worker_s_death_ends_the_run_red_with_the_test_s_name(repository: Path, tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    done = run(tmp_path, repository, [*makefile_options(repository), "--junitxml=tests.xml"])
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "FAILED test_a.py::test_deadly" in done.stdout and "died while it ran test_a.py::test_deadly" in done.stdout
    assert "crashed while running 'test_a.py::test_deadly'" in (tmp_path / "tests.xml").read_text()


def test_the_other_processes_do_not_work_on(repository: Path, tmp_path: Path) -> None:
    """Neither does the deadly test kill them too, nor are their files run to the end."""
    slow = "import time, pytest\n@pytest.mark.parametrize('i', range(100))\ndef test_slow(i): time.sleep(1)\n"
    for name, text in {"test_a.py": FILES["test_a.py"], "test_b.py": slow}.items():
        (tmp_path / name).write_text(text)
    done = run(tmp_path, repository, makefile_options(repository))
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert len(re.findall("^FAILED", done.stdout, re.MULTILINE)) == 1, done.stdout


def test_a_worker_that_dies_between_tests_turns_the_run_red(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text("def test_a(): pass\ndef test_b(): pass\n")
    deadly = (
        "import os\ndef pytest_sessionfinish():\n    if 'PYTEST_XDIST_WORKER' in os.environ: os.kill(os.getpid(), 9)\n"
    )
    done = run(tmp_path, repository, makefile_options(repository), deadly)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "2 passed" in done.stdout and "node down" in done.stdout
