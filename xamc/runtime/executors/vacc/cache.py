"""The KV cache of one sequence between calls of the decode graphs, on all ranks.

Slot j of the past holds the token at position j. A decode graph returns the new token's key and value in its last
slot; the host, that is this module, puts them where the next call wants them (assumption `host-moves-new-slot`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xamc.runtime.executors.vacc.description import Signature
from xamc.runtime.memory import aligned_zeros

Array = NDArray[np.generic]


class SequenceCache:
    """Keys and values of one sequence.

    Attributes:
        slots: how many tokens the past has room for: the decode graph's length less one.
        pasts: per rank, what the graphs take.
    """

    def __init__(self, ranks: int, make_past: Callable[[Sequence[Array]], Any]) -> None:
        """An empty cache without room; `make_past` turns a rank's arrays into what the graphs take."""
        self._make_past = make_past
        self._arrays: list[list[Array]] = [[] for _ in range(ranks)]
        self.slots = 0
        self.pasts: list[Any] = []

    def fit(self, past: Sequence[Signature], tokens: int) -> None:
        """Makes room for the past of a decode graph, keeping the first `tokens` tokens.

        Args:
            past: the graph's past inputs, each [1, kv heads, slots, channels].
            tokens: how many are cached.
        """
        slots = past[0].shape[2]
        if slots == self.slots:
            return
        kept = min(tokens, slots, self.slots)
        for rank, old in enumerate(self._arrays):
            new = [aligned_zeros(entry.shape, np.dtype(entry.dtype)) for entry in past]
            for before, after in zip(old, new, strict=False):
                after[:, :, :kept] = before[:, :, :kept]
            self._arrays[rank] = new
        self.slots = slots
        self.pasts = [self._make_past(arrays) for arrays in self._arrays]

    def fill(self, presents: Sequence[Sequence[Array]], tokens: int) -> None:
        """Takes over the first `tokens` tokens of a prefill graph's caches, as far as there is room."""
        kept = min(tokens, self.slots)
        for arrays, of_rank in zip(self._arrays, presents, strict=True):
            for array, present in zip(arrays, of_rank, strict=True):
                array[:, :, :kept] = present[:, :, :kept]

    def put(self, presents: Sequence[Sequence[Array]], position: int) -> None:
        """Moves the new token of a decode graph's caches to its slot, for which there must be room."""
        for arrays, of_rank in zip(self._arrays, presents, strict=True):
            for array, present in zip(arrays, of_rank, strict=True):
                array[:, :, position] = present[:, :, -1]
