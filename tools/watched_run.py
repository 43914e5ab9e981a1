"""Runs a command and watches it from outside: summed PSS of its process tree, and disk taken below some folders."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.memory_limit import Limit
from xamc.jobs.memory import MemorySampler

PSS_SECONDS = 0.1
DISK_SECONDS = 1.0


@dataclass(frozen=True)
class Watched:
    """What a command did.

    Attributes:
        status: its exit status; negative for a signal.
        output: its standard output.
        seconds: wall-clock time.
        peak_pss: largest sum of PSS over its process tree, in bytes.
        peak_disk: most bytes below the watched folders at one moment.
        ended_by_watchdog: whether it was ended for going above a watched limit.
    """

    status: int
    output: str
    seconds: float
    peak_pss: int
    peak_disk: int
    ended_by_watchdog: bool


def disk_bytes(folders: Iterable[Path]) -> int:
    """Bytes that the files below `folders` take on the disk; a file with several hard links counts once."""
    seen: dict[tuple[int, int], int] = {}
    pending = list(folders)
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except (FileNotFoundError, NotADirectoryError):  # gone meanwhile
            continue
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    status = os.stat(entry.path, follow_symlinks=False)
                    seen[status.st_dev, status.st_ino] = status.st_blocks * 512
            except FileNotFoundError:
                continue
    return sum(seen.values())


def watched_run(
    command: Sequence[str],
    *,
    folders: Sequence[Path],
    environment: Mapping[str, str],
    limit: Limit | None = None,
) -> Watched:
    """Runs a command to its end; its stderr goes to ours, so that progress is seen.

    Args:
        command: program and arguments.
        folders: where disk use is sampled every second.
        environment: variables on top of ours.
        limit: of memory.
    """
    prepare: Callable[[], None] | None = limit.open() if limit else None
    started = time.monotonic()
    process = subprocess.Popen(
        limit.command(list(command)) if limit else list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
        text=True,
        start_new_session=True,
        preexec_fn=prepare,  # joins a cgroup or sets a limit; no thread of ours runs yet
    )
    peaks = {"disk": 0}
    done, ended = threading.Event(), threading.Event()

    sampler = MemorySampler(process.pid, PSS_SECONDS)

    def watch_limit() -> None:
        while not done.wait(PSS_SECONDS):
            if limit is not None and limit.watched and sampler.peak > limit.nbytes:
                ended.set()
                os.killpg(process.pid, signal.SIGTERM)
                return

    def watch_disk() -> None:
        while True:
            peaks["disk"] = max(peaks["disk"], disk_bytes(folders))
            if done.wait(DISK_SECONDS):
                return

    threads = [threading.Thread(target=target, daemon=True) for target in (watch_limit, watch_disk)]
    for thread in threads:
        thread.start()
    try:
        with sampler:
            output, _ = process.communicate()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
        done.set()
        for thread in threads:
            thread.join()
        if limit:
            limit.close()
    seconds = time.monotonic() - started
    peaks["disk"] = max(peaks["disk"], disk_bytes(folders))
    return Watched(process.returncode, output, seconds, sampler.peak, peaks["disk"], ended.is_set())
