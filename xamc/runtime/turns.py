"""Whose turn it is: a model has one KV cache, so one call runs at a time, whatever threads the calls come from.

A call that comes while another one runs waits for it. Streams take turns piece by piece, because nobody knows when, or
from which thread, a caller asks for the next one; a session whose KV cache another one had meanwhile takes it back
(`Session`). A call that was interrupted or failed half-way leaves a KV cache that nobody can trust: the next one
forgets all of it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from xamc.errors import InputError, MisuseError, UnsupportedError
from xamc.runtime.executor import Executor

if TYPE_CHECKING:
    from xamc.runtime.session import Session

T = TypeVar("T")

_REFUSALS = (InputError, MisuseError, UnsupportedError)
"""What is raised before anything runs."""


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


class Turns:
    """The order of the calls of one model.

    Attributes:
        session: the one that has the KV cache.
    """

    def __init__(self, executor: Executor, name: str) -> None:
        """Args:
        executor: runs the model.
        name: of the artifact, for errors.
        """
        self._executor = executor
        self._lock = ProcessLock(name, executor.threads)
        self._is_whole = True
        self.session: Session | None = None

    def run(self, work: Callable[[], T]) -> T:
        """As `ProcessLock.run`."""
        return self._lock.run(lambda: self._run(work))

    def _run(self, work: Callable[[], T]) -> T:
        if not self._is_whole:
            self._forget()
        self._is_whole = False
        try:
            result = work()
        except _REFUSALS:
            self._is_whole = True
            raise
        self._is_whole = True
        return result

    def _forget(self) -> None:
        """Of a call that ended in the middle of a step nobody knows which keys it wrote, or which blocks it took."""
        self.session = None
        if self._executor.pages is not None:
            self._executor.pages.forget()


class InTurns(Generic[T]):
    """An iterator that any thread may advance; each step is a turn."""

    def __init__(self, turns: Turns, items: Iterator[T]) -> None:
        self._turns, self._items = turns, items

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        found = self._turns.run(lambda: next(self._items, self))
        if isinstance(found, InTurns):
            raise StopIteration
        return found
