"""What can be said of the emulated machine without one."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tools.levels import machine
from tools.levels.machine import Machine
from tools.levels.recorder import Recorder
from tools.reliability.results import ROOT, read


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAMC_BOCHS", "no-such-emulator")
    monkeypatch.setenv("XAMC_GUEST_KERNEL", "/no/such/kernel")
    said = machine.missing() or ""
    assert "needs Debian's bochs" in said and "no-such-emulator" in said and "XAMC_GUEST_KERNEL" in said


NAMES = [f"test[{family}-{level}]" for family in "abc" for level in ("x86-64-v4", "x86-64-v4+vnni")]


def _run(path: Path, names: Sequence[str], wrong: Sequence[str] = (), go_on: bool = False) -> list[str]:
    """Records tests as pytest would run them, and returns those that ran."""
    recorder = Recorder(path)
    chosen = [name for name, keep in zip(NAMES, recorder.rest(NAMES, go_on)) if keep and name in names]
    for name in chosen:
        recorder.phase(name, True, False)
        recorder.phase(name, name not in wrong, False)
        recorder.phase(name, True, True)
    return chosen


def _rows(path: Path) -> list[tuple[str, int, int]]:
    return [(row.check, row.tried, row.failed) for row in read(path)]


def test_what_ran_before_it_was_ended_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    _run(path, NAMES[:3])
    assert _rows(path) == [("kernels: x86-64-v4", 2, 0), ("kernels: x86-64-v4+vnni", 1, 0)]
    assert "the first of 3 kernel families" in read(path)[0].note
    assert _run(path, NAMES, go_on=True) == NAMES[3:]
    assert _rows(path) == [("kernels: x86-64-v4", 3, 0), ("kernels: x86-64-v4+vnni", 3, 0)]
    assert read(path)[0].note.startswith("kernel families")
    assert _run(path, NAMES, go_on=True) == []


def test_a_level_that_failed_begins_anew_and_without_go_on_all_do(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    _run(path, NAMES, wrong=NAMES[:1])
    assert _rows(path) == [("kernels: x86-64-v4", 3, 1), ("kernels: x86-64-v4+vnni", 3, 0)]
    assert _run(path, NAMES, go_on=True) == NAMES[::2]
    assert _rows(path)[0] == ("kernels: x86-64-v4", 3, 0)
    assert _run(path, NAMES) == NAMES


def test_pytest_records_as_it_goes_and_stops_at_a_skipped_test(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('isa', ['x86-64', 'x86-64-v2'])\n"
        "@pytest.mark.parametrize('family', ['good', 'wrong', 'good'])\n"
        "def test_level(family, isa):\n"
        "    assert family == 'good'\n"
        "def test_of_no_level(): pass\n"
        "def test_skipped(): pytest.skip('for a reason')\n"
        "def test_after_it(): pass\n"
    )
    program = (
        "import pathlib, sys, pytest, tools.levels.recorder as r\n"
        "r.Recorder.__init__.__defaults__ = (pathlib.Path('results.csv'),)\n"
        "sys.exit(pytest.main(['-q', '--import-mode=importlib', '-p', 'tools.levels.recorder', 'test_it.py']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "test_skipped was skipped" in done.stdout and "2 failed, 5 passed" in done.stdout
    assert _rows(tmp_path / "results.csv") == [("kernels: x86-64", 3, 1), ("kernels: x86-64-v2", 3, 1)]


def test_the_emulator_s_own_time_is_limited_not_what_it_waits(tmp_path: Path) -> None:
    computing, waiting = (object.__new__(Machine) for _ in range(2))
    for one, program in ((computing, "while True: pass"), (waiting, "import time; time.sleep(60)")):
        one.folder, one.process = tmp_path, subprocess.Popen([sys.executable, "-S", "-c", program])
    try:
        with pytest.raises(TimeoutError, match="something took more than 0"):
            computing._wait(lambda: False, 0.3, "something")
        end = time.monotonic() + 1
        waiting._wait(lambda: time.monotonic() > end, 0.3, "something")
    finally:
        for one in (computing, waiting):
            one.process.kill()
            one.process.wait()


DRAWING = """
import os, pty, tty
master, slave = pty.openpty()
tty.setraw(slave)
print(f'connected to screen "{os.ttyname(slave)}"', flush=True)
drawing = b"x" * 1000
for _ in range(200):
    os.write(master, drawing)
"""


def test_an_emulator_that_draws_a_lot_does_not_wait_for_a_reader() -> None:
    one = object.__new__(Machine)
    one.terminal, theirs = pty.openpty()
    reader = threading.Thread(target=one._discard)
    with subprocess.Popen([sys.executable, "-S", "-c", DRAWING], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        reader.start()
        try:
            assert process.wait(20) == 0
        finally:
            process.kill()
    reader.join(60)
    assert not reader.is_alive()
