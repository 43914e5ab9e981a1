"""Drafts by looking up what followed the last few tokens where they stood before (prompt lookup, Saxena, 2023).

A draft costs no model. Whether it pays depends on the text, so that its length follows what became of those before, and
after failures some tokens are chosen without.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_DRAFT = 15
"""With the token before it a tile's rows twice."""
_FIRST_DRAFT = 3
_LONGEST_PAUSE = 64
_NGRAMS = (4, 3, 2)
"""Lengths of what is looked up, the longest first: the longer, the likelier the same goes on."""


class NgramDrafts:
    """The n-grams of one sequence, and how far its drafts were right.

    Attributes:
        proposed, accepted: tokens of drafts that were checked, and how many of them were chosen.
    """

    def __init__(self) -> None:
        self.proposed = self.accepted = 0
        self._indexed = 0
        # of each n-gram, where what follows its latest occurrence begins
        self._after: dict[tuple[int, ...], int] = {}
        self._length = _FIRST_DRAFT
        self._pause = 1
        self._waiting = 0

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """What may follow `tokens`, at most `most` of them; an empty list where nothing speaks for anything."""
        self._index(tokens)
        if self._waiting:
            self._waiting -= 1
            return []
        most = min(most, self._length)
        for n in _NGRAMS:
            begin = self._after.get(tuple(tokens[-n:])) if len(tokens) > n else None
            if begin is not None and most > 0:
                draft = list(tokens[begin : begin + most])
                # where that reaches the end, what repeats may go on repeating
                while len(draft) < most:
                    draft.append(draft[begin - len(tokens)])
                return draft
        return []

    def learn(self, proposed: int, accepted: int) -> None:
        """What became of a draft: how many tokens it had and how many of them were chosen."""
        self.proposed += proposed
        self.accepted += accepted
        if accepted == proposed:
            self._length = min(2 * self._length + 1, LONGEST_DRAFT)
        else:
            self._length = max(1, min(self._length, accepted + 1))
        if accepted:
            self._pause = 1
        else:
            self._waiting = self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._length = 1

    def _index(self, tokens: Sequence[int]) -> None:
        """Takes in what has come since, but for the n-grams that end at the last token: nothing follows them yet."""
        for end in range(max(self._indexed, 1), len(tokens)):
            for n in _NGRAMS:
                if end >= n:
                    self._after[tuple(tokens[end - n : end])] = end
        self._indexed = max(self._indexed, len(tokens))
