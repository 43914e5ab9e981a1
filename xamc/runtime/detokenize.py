"""Text from tokens one at a time, never half a character.

A Chinese character or an emoji may be spread over several tokens; decoded alone, each of them gives U+FFFD. Pieces are
therefore held back while their end may still change.
"""

from __future__ import annotations

from typing import Protocol

from xamc.runtime.clean_up import CleanUp

_REPLACEMENT = "\ufffd"
_UNFINISHED_BYTES = 3  # a UTF-8 character has at most 4 bytes, so at most 3 wait for the rest


class Decoder(Protocol):
    """What turns token ids into text."""

    def decode(self, token_ids: list[int]) -> str: ...


class Detokenizer(Protocol):
    """The pieces of one answer; joined they are the text of all its tokens."""

    def push(self, token: int) -> str:
        """The text that `token` makes certain."""
        ...

    def flush(self) -> str:
        """The text still held back."""
        ...


def detokenizer(decoder: Decoder) -> Detokenizer:
    """A fresh one; `decoder.uncleaned` decodes without a clean-up that is then made on the stream."""
    uncleaned: Decoder | None = getattr(decoder, "uncleaned", None)
    return StreamDetokenizer(decoder) if uncleaned is None else _Cleaned(StreamDetokenizer(uncleaned))


class _Cleaned:
    """Pieces of a tokenizer that cleans its texts up."""

    def __init__(self, source: StreamDetokenizer) -> None:
        self._source = source
        self._clean_up = CleanUp()

    def push(self, token: int) -> str:
        return self._clean_up.push(self._source.push(token))

    def flush(self) -> str:
        return self._clean_up.push(self._source.flush()) + self._clean_up.flush()


class StreamDetokenizer:
    """The pieces of one answer; joined they are the text of all its tokens.

    Tokens are decoded together with one token before them whose text went out already, because a decoder may treat the
    first token of a call differently (SentencePiece drops its leading space). Until there is such a token, all are
    decoded again.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._context: list[int] = []
        self._waiting: list[int] = []
        self._has_whole_context = False
        self._sent = ""

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is unfinished."""
        self._waiting.append(token)
        text = self._decoder.decode([*self._context, *self._waiting])
        unfinished = min(len(text) - len(text.rstrip(_REPLACEMENT)), _UNFINISHED_BYTES)
        stable = text[: len(text) - unfinished]
        if not stable.startswith(self._sent):
            # Byte tokens are decoded as a group, which is replaced as a whole while its last character is unfinished.
            if unfinished and len(self._waiting) <= _UNFINISHED_BYTES:
                return ""
            return self.flush()
        piece = stable[len(self._sent) :]
        self._sent = stable
        if not unfinished:
            self._settle()
        return piece

    def flush(self) -> str:
        """The text still held back: replacement characters of bytes that never became a character."""
        text = self._decoder.decode([*self._context, *self._waiting])
        if text.startswith(self._sent):
            piece = text[len(self._sent) :]
        else:
            piece = self._decoder.decode(self._waiting)
        self._settle()
        return piece

    def _settle(self) -> None:
        """All waiting tokens are sent: the last whole one becomes the context of the next."""
        for token in reversed(self._waiting):
            text = self._decoder.decode([token])
            if text and _REPLACEMENT not in text:
                self._context, self._sent = [token], text
                self._has_whole_context = True
                break
        else:
            if not self._has_whole_context:
                self._context = [*self._context, *self._waiting]
            self._sent = self._decoder.decode(self._context)
        self._waiting = []
