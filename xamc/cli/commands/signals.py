"""SIGTERM, SIGHUP and SIGINT end a command as an error does: what it was making is removed, its children are ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(BaseException):
    """Raised in the main thread by a signal; no error, so that nothing but `finally` and the command line sees it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells have it."""
        return 128 + self.signal

    def __str__(self) -> str:
        return "interrupted" if self.signal == signal.SIGINT else f"ended by {self.signal.name}"


@contextmanager
def unwinding() -> Iterator[None]:
    """Let the first signal raise `Terminated` inside the block; further ones are ignored while it is cleaned up.

    Only the main thread may handle signals; in another one, as under a test runner, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        from xamc.jobs.child import end_children

        for other in _SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        end_children()  # a thread that waits for one would keep us
        raise Terminated(number)

    before: dict[signal.Signals, Any] = {}
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and scripts in the background ask for that
            before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
