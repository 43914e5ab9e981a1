"""One piece of work at a time, whatever threads it comes from: a model has one KV cache, a graph one set of buffers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from xamc.errors import MisuseError, UnsupportedError

T = TypeVar("T")


class ProcessLock:
    """One piece of work at a time, in the process that made the lock.

    A forked child has none of its parent's threads: kernels would wait for them for ever.
    """

    def __init__(self, name: str, threads: int) -> None:
        """Args:
        name: of the artifact, for errors.
        threads: threads of the kernels.
        """
        self._name, self._threads = name, threads
        self._lock = threading.Lock()
        self._owner = 0
        self._process = os.getpid()

    def run(self, work: Callable[[], T]) -> T:
        """`work`'s result, once no other thread is at work.

        Raises:
            UnsupportedError: E1652, the process was forked after the load.
            MisuseError: E1618, this very thread is at work already.
        """
        if self._process != os.getpid():
            self._follow_fork()
        if self._owner == threading.get_ident() and self._lock.locked():  # a signal handler, or a finalizer
            raise MisuseError(
                "E1618",
                f"{self._name} was called from within a call of its own, in the middle of a step",
                "don't call a model in a signal handler or a finalizer",
            )
        with self._lock:
            try:
                self._owner = threading.get_ident()
                return work()
            finally:
                self._owner = 0

    def _follow_fork(self) -> None:
        """With one thread, the caller's, nothing is missing, unless the parent was at work: then it stays so here."""
        if self._threads > 1 or self._lock.locked():
            raise UnsupportedError(
                "E1652",
                f"{self._name} was loaded before this process was forked, and the threads of its kernels stayed behind",
                "load the artifact in the child (processes share the memory of its weights), or start it with spawn",
            )
        self._lock = threading.Lock()
        self._process = os.getpid()
