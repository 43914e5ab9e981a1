"""Ends an answer at a stop string, also one spread over several tokens, and never streams a part of it."""

from __future__ import annotations

from collections.abc import Sequence

from xamc.errors import MisuseError


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
        self._shown: list[bool] = []  # whether each character of what is held back belongs to the answer's text
        self.found = False

    def push(self, piece: str, shown: bool = True) -> str:
        """The text that is now certain to come before any stop string; `found` says whether one was met.

        Args:
            piece: the next piece of the answer.
            shown: whether it belongs to the text; a special token doesn't, and yet a stop string may name it.
        """
        if self.found:
            return ""
        text = self._held + piece
        self._shown += [shown] * len(piece)
        starts = [start for stop in self._stops if (start := text.find(stop)) >= 0]
        self.found = bool(starts)
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        return self._release(text, min(starts, default=len(text) - keep))

    def flush(self) -> str:
        """The text still held back when the answer ends for another reason."""
        return self._release(self._held, len(self._held))

    def _release(self, text: str, end: int) -> str:
        """What is shown of `text` up to `end`; the rest is held back, or dropped behind a stop string."""
        certain = "".join(character for character, shown in zip(text[:end], self._shown) if shown)
        self._held, self._shown = ("", []) if self.found else (text[end:], self._shown[end:])
        return certain


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a start of `stop`, but not all of it."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
