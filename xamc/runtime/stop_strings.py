"""Ends an answer at a stop string, also one spread over several tokens, and never streams a part of it."""

from __future__ import annotations

from collections.abc import Sequence

from xamc.compiler.errors import MisuseError


class StopStrings:
    """A filter for the pieces of one answer: holds text back as long as it may be the start of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Filters for `stops`; no stop strings pass everything on.

        Raises:
            MisuseError: E1612, an empty stop string.
        """
        if any(not stop for stop in stops):
            raise MisuseError("E1612", "a stop string is empty", "leave it out")
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """The text that is now certain to come before any stop string; `found` says whether one was met."""
        if self.found:
            return ""
        text = self._held + piece
        starts = [start for stop in self._stops if (start := text.find(stop)) >= 0]
        if starts:
            self.found = True
            self._held = ""
            return text[: min(starts)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The text still held back when the answer ends for another reason."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a start of `stop`, but not all of it."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
