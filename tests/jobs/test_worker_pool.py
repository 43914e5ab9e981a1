"""The worker processes: what they import, and what is left of them after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.reliability.kill import alive_with

REPOSITORY = Path(__file__).parents[2]
# a worker that says that it is there, and stays
RUN = """
import sys
from pathlib import Path
from tests.targets.block_functions import {function}
from xamc.jobs.worker_pool import run_blocks
run_blocks({function}, [(Path(sys.argv[1]) / str(n),) for n in range(2)], 2, lambda done: None)
"""


def start(folder: Path, function: str) -> subprocess.Popen[str]:
    (folder / "tmp").mkdir()
    (folder / "out").mkdir()
    own = {"TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(REPOSITORY), "XAMC_BLOCK_TEST": str(folder)}
    script = folder / "scripts" / "run.py"  # like the command of an installation: not in the current folder, no -P
    script.parent.mkdir()
    script.write_text(RUN.format(function=function))
    return subprocess.Popen(
        [sys.executable, str(script), str(folder / "out")],
        cwd=folder, env={**os.environ, **own}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_nothing_of_the_current_folder_is_imported(tmp_path: Path) -> None:
    """It may be a checkpoint's; python -c, which starts workers, would look for modules there first."""
    for name in ("multiprocessing", "signal", "struct", "tempfile", "numpy", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'a').write(__name__)\n")
    process = start(tmp_path, "touch")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert sorted(os.listdir(tmp_path / "out")) == ["0", "1"] and not (tmp_path / "trace").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_leaves_neither_processes_nor_files(number: signal.Signals, tmp_path: Path) -> None:
    with start(tmp_path, "stay") as process:
        while len(os.listdir(tmp_path / "out")) < 2 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        process.wait(60)
        for _ in range(200):
            if not (alive := alive_with(f"XAMC_BLOCK_TEST={tmp_path}")):
                break
            time.sleep(0.05)
    assert alive == [] and os.listdir(tmp_path / "tmp") == []
