from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from xamc.errors import InputError, ToolchainError
from xamc.jobs.child import Limits, run_child, write_call

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def call(tmp_path: Path) -> Any:
    folder = tmp_path / "child"
    folder.mkdir()

    def call(function: str, request: Any, seconds: float = 30, memory: int | None = None) -> Any:
        return run_child(
            f"tests.jobs.child_functions:{function}",
            request,
            folder=folder,
            limits=Limits(seconds, memory),
            reproducers=tmp_path / "reproducers",
            environment={"PYTHONPATH": str(REPOSITORY), "XAMC_TEST_VARIABLE": "set"},
        )

    return call


def test_result_comes_back(call: Any, tmp_path: Path) -> None:
    assert call("double", {"value": 21}) == {"value": 42, "variable": "set"}
    assert not (tmp_path / "reproducers").exists()


@pytest.mark.parametrize("without", [(), ("colorsys",)])
def test_a_module_is_imported_without_a_package(without: tuple[str, ...], tmp_path: Path) -> None:
    """What it imports later, it finds."""
    found = run_child(
        "tests.jobs.child_imports:found",
        None,
        folder=tmp_path,
        limits=Limits(30),
        reproducers=tmp_path / "reproducers",
        environment={"PYTHONPATH": str(REPOSITORY)},
        without=without,
    )
    assert found == [not without, True]


def test_our_errors_are_raised_again_whole(call: Any) -> None:
    with pytest.raises(InputError) as caught:
        call("refuse", {})
    error = caught.value
    assert (error.code, error.message, error.fix, error.details) == ("E1042", "no", "do", ("one", "two"))
    assert error.locations[0].path == Path("b.yaml") and error.locations[0].note == "here"
    assert error.keys == ("name",)


def test_signal_becomes_a_toolchain_error_with_log_and_reproducer(call: Any, tmp_path: Path) -> None:
    graph = tmp_path / "graph.onnx"
    graph.write_bytes(b"graph")
    with pytest.raises(ToolchainError) as caught:
        call("crash", {"graph": str(graph), "out": str(tmp_path)})
    error = caught.value
    assert error.code == "E1520" and "SIGSEGV" in error.message
    text = "\n".join(error.details)
    assert "about to read address zero" in text and "child_functions.py" in text  # faulthandler's stack
    (kept,) = (tmp_path / "reproducers").iterdir()
    assert str(kept) in error.message
    graph.unlink()
    saved = json.loads((kept / "request.json").read_text())
    assert Path(saved["graph"]).read_bytes() == b"graph"
    assert Path(saved["out"]).is_relative_to(kept)
    again = subprocess.run(
        [sys.executable, "-m", "xamc.jobs.child", str(kept)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        check=False,
    )
    assert again.returncode == -signal.SIGSEGV


def test_other_exceptions_are_named_and_can_be_reproduced_twice(call: Any, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ToolchainError) as caught:
            call("fail", {"file": "g.onnx"})
        assert caught.value.code == "E1523"
        assert "ZeroDivisionError: while reading g.onnx" in caught.value.details[-1]
    assert len(list((tmp_path / "reproducers").iterdir())) == 2


def test_time_limit_ends_the_whole_session(call: Any, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(ToolchainError, match="E1521"):
        call("hang", {"pid_file": str(pid_file)}, seconds=4)
    pid = int(pid_file.read_text())
    for _ in range(50):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    pytest.fail("the grandchild is still running")


def test_memory_limit_is_kept(call: Any) -> None:
    with pytest.raises(ToolchainError, match="E1522") as caught:
        call("grow", {}, memory=150 * 2**20)
    assert "150 MiB" in caught.value.message


def test_stale_answers_are_not_read(call: Any, tmp_path: Path) -> None:
    call("double", {"value": 1})
    with pytest.raises(InputError):
        call("refuse", {})
    assert call("double", {"value": 2})["value"] == 4


def test_child_ends_with_a_killed_parent(tmp_path: Path) -> None:
    folder = tmp_path / "child"
    folder.mkdir()
    pid_file = tmp_path / "pid"
    write_call(folder, "tests.jobs.child_functions:hang", {"pid_file": str(pid_file)})
    code = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-m', 'xamc.jobs.child', sys.argv[1]], start_new_session=True)\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        while not (pid_file.exists() and pid_file.read_text()):
            time.sleep(0.05)
        parent.kill()
    for _ in range(50):
        if not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child outlived its parent")
    os.kill(int(pid_file.read_text()), signal.SIGKILL)


SCRIPT = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from xamc.jobs.child import main_module_hidden
print("the script runs", flush=True)
with main_module_hidden():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver")) as pool:
        print(sum(pool.map(abs, [-1, -2, -3])))
print(__file__)
"""


def test_worker_processes_do_not_run_a_script_without_main_guard(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["the script runs", "6", str(tmp_path / "script.py")], done.stderr


POOL = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from xamc.jobs.child import end_with, main_module_hidden
with main_module_hidden():
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPoolExecutor(1, mp_context=context, initializer=end_with, initargs=(os.getpid(),))
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 60)
    time.sleep(60)
"""


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(POOL)
    with subprocess.Popen([sys.executable, str(tmp_path / "script.py")], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert psutil.pid_exists(worker)
        parent.kill()
    for _ in range(50):
        if not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived the process it works for")


@pytest.mark.parametrize("function", ["fill_disk", "tool_on_full_disk", "refuse_on_full_disk"])
def test_a_full_disk_is_no_crash(call: Any, tmp_path: Path, function: str) -> None:
    with pytest.raises(InputError, match="E1506"):
        call(function, {})
    assert not (tmp_path / "reproducers").exists()


def test_a_reproducer_goes_elsewhere_where_the_cache_can_not_be_written(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reproducers").write_text("a file in its place")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with pytest.raises(ToolchainError, match="E1523") as caught:
        call("fail", {"file": "g.onnx"})
    (kept,) = (tmp_path / "tmp").glob("xamc-reproducers-*/*")
    assert str(kept) in caught.value.message
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "reproducers"))
    with pytest.raises(ToolchainError, match="E1523") as caught:
        call("fail", {"file": "g.onnx"})
    assert "could not be saved" in caught.value.fix


def test_temporary_files_of_a_child_go_with_it(call: Any, tmp_path: Path) -> None:
    path = Path(call("temporary_files", {}))
    assert path.is_relative_to(tmp_path / "child") and not path.exists()
    assert not (tmp_path / "child/tmp").exists()


def test_a_child_whose_parent_was_gone_before_it_began_does_nothing(tmp_path: Path) -> None:
    write_call(tmp_path, "tests.jobs.child_functions:double", {"value": 1})
    done = subprocess.run(
        [sys.executable, "-m", "xamc.jobs.child", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "XAMC_PARENT_PID": "1"},
        check=False,
    )
    assert done.returncode == 1 and not (tmp_path / "response.json").exists()


SIGNALLED = """
import sys, threading, time
from pathlib import Path
from xamc.artifact.staging import temporary_folder
from xamc.jobs.child import Limits, run_child
from xamc.cli.commands.signals import Terminated, unwinding

def wait(folder):
    run_child("tests.jobs.child_functions:hang", {"pid_file": sys.argv[1]}, folder=folder,
              limits=Limits(60), reproducers=Path(sys.argv[2]))

try:
    with unwinding(), temporary_folder("codegen") as folder:
        thread = threading.Thread(target=wait, args=(folder,))
        thread.start()
        try:
            while True:
                time.sleep(0.05)
        finally:
            thread.join()
except Terminated as end:
    print(end)
    sys.exit(end.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_children_of_all_threads_and_cleans_up(tmp_path: Path, number: signal.Signals) -> None:
    temporary, pid_file = tmp_path / "tmp", tmp_path / "pid"
    temporary.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [sys.executable, "-c", SIGNALLED, str(pid_file), str(tmp_path / "reproducers")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # tests may themselves run under nohup, whose children ignore SIGHUP
        preexec_fn=lambda: signal.signal(
            number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler
        ),
    ) as process:
        try:
            while not pid_file.exists() and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 128 + number, err
    assert "E1524" in err and number.name in out + "SIGINT"
    assert list(temporary.iterdir()) == [] and not (tmp_path / "reproducers").exists()
