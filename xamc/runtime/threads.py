"""How many threads the kernels run on.

TVM takes half of the logical CPUs unless told otherwise, and pins its threads to the first cores of the machine,
whatever CPUs the process was given. Here all CPUs of the process's affinity are used, no thread is pinned, and the
caller's affinity is left alone.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from xamc.errors import MisuseError

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_MOST_THREADS = 1024
_SHARE_ALL_CORES = -3  # ThreadGroup::kSpecifyThreadShareAllCore
_MOST_CPUS = 8192  # CONFIG_NR_CPUS of the largest kernels
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5})(?::(\d{1,5}))?)?", re.ASCII)
_POOL_OF_THREAD = threading.local()
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def default_threads() -> int:
    """CPUs of the process's affinity, at most the container's CPU quota and `OMP_NUM_THREADS`, at least 1."""
    count = len(os.sched_getaffinity(0))
    if _CPU_QUOTA.exists():
        quota, _, period = _CPU_QUOTA.read_text().partition(" ")
        if quota.isdigit() and period.strip().isdigit():
            count = min(count, math.ceil(int(quota) / int(period)))
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit():
        count = min(count, int(wanted))
    return max(count, 1)


def use_cpus(cpu_list: str) -> frozenset[int]:
    """Lets this thread, and the threads it starts from now on, run on some CPUs only; the kernels take all of these.

    Call it before `load`. TVM's pool is made of threads started then.

    Args:
        cpu_list: as in ``taskset --cpu-list``: numbers and ranges, for example ``0-3,8`` or ``0-14:2``.

    Returns:
        The CPUs.

    Raises:
        MisuseError: E1660, not such a list, or a CPU that this process may not use.
    """
    allowed = os.sched_getaffinity(0)
    wanted = parse_cpu_list(cpu_list)
    if wanted - allowed:
        raise MisuseError(
            "E1660",
            f"this process may not run on CPU {', '.join(map(str, sorted(wanted - allowed)[:8]))}",
            f"choose among {format_cpu_list(allowed)}",
        )
    os.sched_setaffinity(0, wanted)
    return wanted


def parse_cpu_list(text: str) -> frozenset[int]:
    """The CPUs of ``0-3,8`` or, with a step, ``0-14:2``.

    Raises:
        MisuseError: E1660.
    """
    cpus: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last, step = (int(group) if group else None for group in match.groups()) if match else (None,) * 3
        end = first if last is None else last
        if first is None or end is None or end < first or step == 0 or end >= _MOST_CPUS:
            raise MisuseError(
                "E1660", f"{text!r} is no list of CPUs", "give numbers and ranges, for example 0-3,8 or 0-14:2"
            )
        cpus.update(range(first, end + 1, step or 1))
    return frozenset(cpus)


def format_cpu_list(cpus: Iterable[int]) -> str:
    """The shortest list of numbers and ranges."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and parts[-1][-1] == cpu - 1:
            parts[-1][1:] = [cpu]
        else:
            parts.append([cpu])
    return ",".join("-".join(map(str, part)) for part in parts)


def check_threads(threads: int | None) -> int:
    """The number of threads to use for a request of `threads` (None: the default).

    More than the CPUs that the process may use would only wait for each other, a hundred of them for minutes: they are
    as many as the CPUs then, and a warning says so.

    Raises:
        MisuseError: E1608, no whole number from 1 to 1024.
    """
    if threads is None:
        return default_threads()
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or not 1 <= threads <= _MOST_THREADS:
        raise MisuseError(
            "E1608", f"threads is {threads!r}", f"give a whole number from 1 to {_MOST_THREADS}, or leave it out"
        )
    cpus = len(os.sched_getaffinity(0))
    if threads > cpus:
        _LOG.warning("%d threads are used instead of %d: this process may run on %d CPUs", cpus, threads, cpus)
    return min(int(threads), cpus)


class PoolThread:
    """Calls TVM's functions on a thread that has a pool of the size wanted.

    TVM makes a pool for every thread that calls it, and keeps it when that thread ends: a server that answers each
    request in a thread of its own would gather thousands. Here the thread that loaded a model calls by itself, and for
    all others a thread of ours does, which goes from one model to the next.
    """

    _IDLE: ClassVar[dict[tuple[int, int], list[ThreadPoolExecutor]]] = {}
    """Of a process (a forked one has none of its parent's threads) and a size."""

    def __init__(self, ffi: Any, threads: int) -> None:
        """Configures the calling thread's pool.

        Args:
            ffi: the `tvm_ffi` module.
            threads: the size wanted.
        """
        self._ffi, self._wanted = ffi, threads
        self._of_thread = threading.local()
        self.threads = self._configure()
        """The size that the calling thread's pool has."""

    def run(self, work: Callable[[], T]) -> T:
        """`work`'s result; an interrupt waits until it is there, as memory that `work` writes to is the caller's."""
        if not hasattr(self._of_thread, "threads"):
            if self._wanted > 1 or self._is_left_behind():
                return self._run_elsewhere(work)
            self._configure()  # a pool of one is the thread itself
        return work()

    def _configure(self) -> int:
        if self._is_left_behind():
            return self._wanted
        self._of_thread.threads = got = configure_tvm_threads(self._ffi, self._wanted)
        return got

    @staticmethod
    def _is_left_behind() -> bool:
        """Whether this thread has a pool of before a fork, whose threads are the parent's."""
        return getattr(_POOL_OF_THREAD, "process", os.getpid()) != os.getpid()

    def _run_elsewhere(self, work: Callable[[], T]) -> T:
        idle = self._IDLE.setdefault((os.getpid(), self._wanted), [])
        try:
            helper = idle.pop()
        except IndexError:
            arguments = (self._ffi, self._wanted)
            helper = ThreadPoolExecutor(1, "kernels", initializer=configure_tvm_threads, initargs=arguments)
        future = helper.submit(work)
        try:
            return future.result()
        finally:
            while not future.done():
                with contextlib.suppress(KeyboardInterrupt):
                    wait([future])
            idle.append(helper)


def configure_tvm_threads(ffi: Any, threads: int) -> int:
    """Sets the size of TVM's thread pool, which belongs to the calling thread.

    Args:
        ffi: the `tvm_ffi` module.
        threads: the size wanted.

    Returns:
        The size got: less than `threads` when this thread already has a smaller pool, because it can't grow.
    """
    _POOL_OF_THREAD.process = os.getpid()
    cpus = [str(cpu) for cpu in sorted(os.sched_getaffinity(0))]
    # The pool is created with one worker per entry, so the list is as long as the number of threads.
    entries = [cpus[index % len(cpus)] for index in range(threads)]
    # Without this TVM pins threads while it makes the pool, and complains about more threads than CPUs.
    previous = os.environ.get("TVM_BIND_THREADS")
    os.environ["TVM_BIND_THREADS"] = "0"
    try:
        ffi.get_global_func("runtime.config_threadpool")(_SHARE_ALL_CORES, threads, ffi.Array(entries))
    finally:
        if previous is None:
            del os.environ["TVM_BIND_THREADS"]
        else:
            os.environ["TVM_BIND_THREADS"] = previous
    got = int(ffi.get_global_func("runtime.NumThreads")())
    if got < threads:
        _LOG.warning(
            "%d of %d threads are used: TVM's thread pool was made smaller before, by other code of this thread",
            got,
            threads,
        )
    return got
