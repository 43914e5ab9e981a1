"""Runs a function over many blocks of weights, in worker processes that end with the compiling one."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from xamc.errors import ToolchainError
from xamc.jobs.child import end_with, main_module_hidden


def run_blocks(
    function: Callable[..., int],
    calls: Iterable[tuple[Any, ...]],
    workers: int,
    progress: Callable[[int], None],
) -> None:
    """Calls `function(*arguments)` for each of `calls`, and `progress` with each result.

    Args:
        function: of a module, so that it can be pickled; returns how many parameters it has done.
        calls: the arguments; they are taken when a worker is free, so nothing piles up.
        workers: processes; 1 works in this one.
        progress: called with the number of parameters done since the last call.

    Raises:
        ToolchainError: E1404 when a worker process dies.
    """
    if workers == 1:
        for arguments in calls:
            progress(function(*arguments))
        return
    with main_module_hidden(), _own_modules_only():
        _in_processes(function, calls, workers, progress)


@contextmanager
def _own_modules_only() -> Iterator[None]:
    """Keeps the current folder out of what starting processes import; it may be a checkpoint of unknown origin."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _in_processes(
    function: Callable[..., int],
    calls: Iterable[tuple[Any, ...]],
    workers: int,
    progress: Callable[[int], None],
) -> None:
    # not forkserver: its socket lies in a folder of TMPDIR that outlives a kill; fork goes badly with threads
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=end_with, initargs=(os.getpid(),))
    running: set[Future[int]] = set()
    try:
        for arguments in calls:
            if len(running) >= 2 * workers:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    progress(future.result())
            running.add(pool.submit(function, *arguments))
        for future in running:
            progress(future.result())
    except BrokenProcessPool as error:
        raise ToolchainError(
            "E1404",
            "a process that packs weights was killed",
            fix="is the machine out of memory? set workspace.workers: 1",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
