"""Text from tokens one at a time, never half a character.

A Chinese character or an emoji may be spread over several tokens; decoded alone, each of them gives U+FFFD. Pieces are
therefore held back while their end may still change.
"""

from __future__ import annotations

from typing import Protocol

_REPLACEMENT = "\ufffd"
_UNFINISHED_BYTES = 3  # a UTF-8 character has at most 4 bytes, so at most 3 wait for the rest


class Decoder(Protocol):
    """What turns token ids into text."""

    def decode(self, token_ids: list[int]) -> str: ...


class StreamDetokenizer:
    """The pieces of one answer; joined they are the text of all its tokens.

    Tokens are decoded in short windows. A window starts with a token whose text went out before, because a decoder
    may treat the first token of a call differently (SentencePiece drops its leading space).
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._window: list[int] = []
        self._context: list[int] = []
        self._sent = 0

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is unfinished."""
        self._window.append(token)
        text = self._decoder.decode([*self._context, *self._window])
        unfinished = min(len(text) - len(text.rstrip(_REPLACEMENT)), _UNFINISHED_BYTES)
        stable = len(text) - unfinished
        piece = text[self._sent : stable]
        self._sent = max(self._sent, stable)
        if unfinished == 0:
            self._start_window()
        return piece

    def flush(self) -> str:
        """The text still held back: replacement characters of bytes that never became a character."""
        piece = self._decoder.decode([*self._context, *self._window])[self._sent :]
        self._sent += len(piece)
        return piece

    def _start_window(self) -> None:
        for token in reversed(self._window):
            text = self._decoder.decode([token])
            if text and _REPLACEMENT not in text:
                self._context = [token]
                break
        if self._context:
            self._window = []
            self._sent = len(self._decoder.decode(self._context))
