"""Seconds of the steps of a child process, one after the other."""

from __future__ import annotations

import time


class Clock:
    """Notes how long each step took, as `laps`: step → seconds since the one before."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """A step has ended."""
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 3)
        self._last = now
