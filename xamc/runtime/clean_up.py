"""transformers' ``clean_up_tokenization_spaces``: takes spaces out that word-level decoders put before punctuation.

A piece of text can be cleaned alone only where nothing that follows it changes it, so a stream waits for such a place.
"""

from __future__ import annotations

import re

# In this order, each over the whole text (clean_up_tokenization of transformers' tokenization_utils_base.py).
_RULES = tuple((f" {end}", end.rstrip()) for end in (".", "?", "!", ",", "' ", "n't", "'m", "'s", "'ve", "'re"))
# No rule reaches over a space behind any other character: they have inner spaces only as in " ' " and " n ' t".
_CUT = re.compile(r"(?<=[^ 'n])(?= )")


def clean_up(text: str) -> str:
    """`text` without those spaces."""
    for spaced, plain in _RULES:
        text = text.replace(spaced, plain)
    return text


class CleanUp:
    """The same for pieces of a text; joined they are `clean_up` of all of it."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, piece: str) -> str:
        """What is certain of the text so far."""
        text = self._held + piece
        cuts = [match.start() for match in _CUT.finditer(text)]
        end = cuts[-1] if cuts else 0
        self._held = text[end:]
        return clean_up(text[:end])

    def flush(self) -> str:
        """The rest."""
        text, self._held = self._held, ""
        return clean_up(text)
