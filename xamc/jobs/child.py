"""Child processes for what can crash hard: TVM's code generator, torch's exporter, vendor compilers.

`run_child` calls one function in a fresh Python process with limits on time and memory. What it prints goes to a log;
a deliberate error of ours is raised again in the parent; a signal, a time-out or a memory limit becomes a
`ToolchainError` with the log's tail and a folder from which the failure can be reproduced without xamc's parent:

    python -m xamc.jobs.child FOLDER
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xamc import errors
from xamc.artifact.publish import link_or_copy
from xamc.artifact.staging import disk_full, free_bytes, full_disk_errors
from xamc.errors import InputError, ToolchainError, XamcError
from xamc.jobs.hidden_imports import hidden
from xamc.jobs.memory import tree_pss_bytes, tree_rss_bytes

REQUEST, RESPONSE, ERROR, LOG, CALL = "request.json", "response.json", "error.json", "log.txt", "call.json"
_POLL_SECONDS = 0.05
_SAVED_BYTES = 256 * 2**20
_TAIL_LINES = 15
_PR_SET_PDEATHSIG = 1
_TEMPORARY = "tmp"
_PARENT = "XAMC_PARENT_PID"
# what tools below us say of a full disk, a quota, or a limit on file sizes
_DISK_FULL = ("No space left on device", "Disk quota exceeded", "File too large", "File size limit exceeded")
_LEAST_FREE = 64 * 2**10

_running: set[subprocess.Popen[bytes]] = set()
_ended = threading.Event()


@dataclass(frozen=True)
class Limits:
    """What a child may take: wall-clock seconds, and bytes of PSS over it and its own children (None: no limit)."""

    seconds: float
    memory_bytes: int | None = None


def run_child(
    function: str,
    request: Any,
    *,
    folder: Path,
    limits: Limits,
    reproducers: Path,
    environment: Mapping[str, str] | None = None,
    without: tuple[str, ...] = (),
) -> Any:
    """Call ``module:function`` with `request` in a fresh process and return its result.

    Args:
        function: for example ``xamc.targets.cpu.compile_library:build``; a module-level function of one argument.
        request: a JSON value. Strings in it that name existing files are saved with a reproducer.
        folder: an existing folder for the request, the response and the log.
        limits: time and memory.
        reproducers: where a folder for a hard failure is made; it outlives `folder`.
        environment: variables set in the child on top of this process's.
        without: packages that the function's module is imported without, see `hidden_imports`.

    Returns:
        The function's result, a JSON value.

    Raises:
        XamcError: what the function raised.
        InputError: E1506 the disk is full.
        ToolchainError: E1520 killed by a signal, E1521 out of time, E1522 above the memory limit, E1523 failed with
            an exception that is not one of ours, E1524 ended with this process.
    """
    with full_disk_errors(folder):
        write_call(folder, function, request, without)
        # what tools leave there when they are killed goes with the folder
        (folder / _TEMPORARY).mkdir(exist_ok=True)
    log = folder / LOG
    with log.open("wb") as output:
        _require_going_on()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "xamc.jobs.child", str(folder)],  # -P: no module from the current folder
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "TMPDIR": str(folder / _TEMPORARY),
                _PARENT: str(os.getpid()),
                **(environment or {}),
            },
            start_new_session=True,  # so that everything it starts can be ended with it
        )
        _running.add(process)
        try:
            excess, free = _watch(process, limits, folder)
        finally:
            _end(process)
            _running.discard(process)
            shutil.rmtree(folder / _TEMPORARY, ignore_errors=True)
    _require_going_on()
    if excess is None and process.returncode == 0 and (folder / RESPONSE).is_file():
        return json.loads((folder / RESPONSE).read_text(encoding="utf-8"))
    if excess is None and (folder / ERROR).is_file():
        raise _error_from_json(json.loads((folder / ERROR).read_text(encoding="utf-8")))
    raise _failure(function, folder, excess, process.returncode, limits, reproducers, free)


def end_children() -> None:
    """End all running children, and start no more: this process is about to end."""
    _ended.set()
    for process in tuple(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _require_going_on() -> None:
    if _ended.is_set():
        raise ToolchainError("E1524", "the child process was ended with the compile", fix="compile again")


def write_call(folder: Path, function: str, request: Any, without: tuple[str, ...] = ()) -> None:
    """Write what `python -m xamc.jobs.child FOLDER` reads."""
    for stale in (RESPONSE, ERROR):
        (folder / stale).unlink(missing_ok=True)
    (folder / CALL).write_text(json.dumps({"function": function, "without": without}), encoding="utf-8")
    (folder / REQUEST).write_text(json.dumps(request, indent=1), encoding="utf-8")


@contextlib.contextmanager
def main_module_hidden() -> Iterator[None]:
    """Let multiprocessing start processes that do not run the caller's script.

    It imports ``__main__`` in every process it spawns, so that a script that compiles, and has no
    ``if __name__ == "__main__"``, would compile again in each of them. Our workers need nothing of that module.
    """
    main = sys.modules["__main__"]
    saved: dict[str, Any] = {name: vars(main)[name] for name in ("__file__", "__spec__") if name in vars(main)}
    vars(main).pop("__file__", None)
    vars(main)["__spec__"] = None
    try:
        yield
    finally:
        vars(main).update(saved)


def end_with(pid: int) -> None:
    """End this process as soon as process `pid` is gone; the initializer of worker pools.

    A pool's workers hold the pipes they read from open among themselves, so after a kill of the process they work
    for they would wait for ever.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        os._exit(1)

    def wait() -> None:
        select.select([descriptor], [], [])
        os._exit(1)

    threading.Thread(target=wait, name="end-with", daemon=True).start()


def _watch(process: subprocess.Popen[bytes], limits: Limits, folder: Path) -> tuple[str | None, int]:
    """Wait for the child's end.

    Returns:
        E1521 or E1522 when it went beyond a limit (it is still to be ended); and the fewest bytes that were free:
        on a full disk its log may say nothing, and when it has ended its temporary files are gone.
    """
    free = free_bytes(folder)
    deadline = time.monotonic() + limits.seconds
    poll = _POLL_SECONDS / 10
    while process.poll() is None:
        free = min(free, free_bytes(folder))
        if time.monotonic() > deadline:
            return "E1521", free
        # the resident sets bound the PSS from above and are cheap to read
        limit = limits.memory_bytes
        if limit is not None and tree_rss_bytes(process.pid) > limit and tree_pss_bytes(process.pid) > limit:
            return "E1522", free
        time.sleep(poll)
        poll = min(_POLL_SECONDS, poll * 2)
    return None, min(free, free_bytes(folder))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the child's whole session; also when this process is interrupted."""
    with contextlib.suppress(ProcessLookupError):  # everything has ended by itself
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _failure(
    function: str, folder: Path, excess: str | None, status: int, limits: Limits, reproducers: Path, free: int
) -> InputError | ToolchainError:
    tail = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    said = next((text for text in _DISK_FULL if any(text in line for line in tail)), None)
    # whoever fails says why; where the log is empty, there was no room for it
    mute = status > 0 and not tail
    if excess is None and (said or mute or free < _LEAST_FREE or status == -signal.SIGXFSZ):
        return disk_full(folder, said or f"{function} failed")
    kept = _save(folder, reproducers, f"{function.partition(':')[0].rpartition('.')[2]}-{os.getpid()}")
    again = f"; reproduce it with: python -m xamc.jobs.child {kept}" if kept else ""
    if excess == "E1521":
        what, fix = f"took longer than {limits.seconds:.0f} s", "run again on an idle machine"
    elif excess == "E1522":
        limit = (limits.memory_bytes or 0) / 2**20
        what, fix = f"took more than {limit:.0f} MiB of memory", "lower workspace.workers, or give it more memory"
    elif status < 0:
        what = f"was ended by {signal.Signals(-status).name}"
        fix = "`xamc doctor` checks the pins that are known to crash"
        if -status == signal.SIGKILL:
            fix = "the kernel ends processes when memory is short: lower workspace.workers, or free memory"
    else:
        excess, what = "E1523", "failed"
        fix = "report it with that folder"
    return ToolchainError(
        excess or "E1520",
        f"the child process {function} {what}{again}",
        fix=fix if kept else f"{fix}; its folder could not be saved, so make room in {tempfile.gettempdir()} first",
        details=(*((f"log: {kept / LOG}",) if kept else ()), *tail),
    )


def _save(folder: Path, reproducers: Path, name: str) -> Path | None:
    """A reproducer among the others, or in the system's temporary folder where that can't be written, or None."""
    for parent in (reproducers, Path(tempfile.gettempdir()) / f"xamc-reproducers-{os.geteuid()}"):
        try:
            return save_reproducer(folder, parent / name)
        except OSError:  # a read-only or full cache
            continue
    return None


def save_reproducer(folder: Path, destination: Path) -> Path:
    """Copy a child's folder and the files its request names, so that the call can be repeated later and elsewhere.

    Returns:
        The new folder; a number is appended when `destination` is taken.
    """
    candidate, number = destination, 1
    while candidate.exists():
        number += 1
        candidate = destination.with_name(f"{destination.name}-{number}")
    saved = candidate / "inputs"
    saved.mkdir(parents=True)
    for name in (CALL, LOG, ERROR):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, candidate / name)
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    (candidate / REQUEST).write_text(json.dumps(_with_saved_files(request, saved), indent=1), encoding="utf-8")
    return candidate


def _with_saved_files(value: Any, saved: Path) -> Any:
    """The request with the files and folders it names replaced by saved ones; weights of gigabytes stay in place."""
    if isinstance(value, dict):
        return {key: _with_saved_files(item, saved) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_saved_files(item, saved) for item in value]
    if isinstance(value, str) and os.path.isabs(value):
        source = Path(value)
        target = saved / f"{len(list(saved.iterdir()))}-{source.name}"
        if source.is_file() and source.stat().st_size <= _SAVED_BYTES:
            link_or_copy(source, target)
            return str(target)
        if source.is_dir():
            target.mkdir()  # a folder in a request is where results go
            return str(target)
    return value


def _error_from_json(fields: Mapping[str, Any]) -> XamcError:
    kind = getattr(errors, fields["class"])
    locations = tuple(errors.Location(**{**at, "path": Path(at["path"])}) for at in fields["locations"])
    details, keys = tuple(fields["details"]), tuple(fields["keys"])
    error: XamcError = kind(fields["code"], fields["message"], fields["fix"], locations, details, keys)
    return error


def _error_to_json(error: XamcError) -> dict[str, Any]:
    # A subclass of a room's own travels as the public class it derives from.
    kind = next(cls for cls in type(error).__mro__ if cls.__module__ == errors.__name__)
    locations = [{**vars(at), "path": str(at.path)} for at in error.locations]
    return {
        "class": kind.__name__,
        "code": error.code,
        "message": error.message,
        "fix": error.fix,
        "locations": locations,
        "details": list(error.details),
        "keys": list(error.keys),
    }


def main(arguments: list[str]) -> int:
    """The child's side: call the function named in FOLDER, and leave its result or our error there."""
    (folder,) = map(Path, arguments)
    # When the compile is killed, its children must not go on writing; it may have been before that call.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.environ.get(_PARENT, str(os.getppid())) != str(os.getppid()):
        return 1
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import faulthandler

    faulthandler.enable()
    call = json.loads((folder / CALL).read_text(encoding="utf-8"))
    place, _, name = call["function"].partition(":")
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    try:
        with full_disk_errors(folder):
            with hidden(*call["without"]):
                module = importlib.import_module(place)
            result = getattr(module, name)(request)
            _answer(folder / RESPONSE, result)
    except XamcError as error:
        _answer(folder / ERROR, _error_to_json(error))
        return error.exit_code
    return 0


def _answer(path: Path, value: Any) -> None:
    """Renamed into place: a child that is killed here, or meets a full disk, has not answered."""
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(json.dumps(value), encoding="utf-8")
    partial.rename(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
