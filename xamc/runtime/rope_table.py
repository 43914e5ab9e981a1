"""cos and sin of the positions that a running model uses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xamc.model.config import ModelConfig
from xamc.model.rope import cos_sin, inverse_frequencies
from xamc.runtime.memory import aligned_zeros

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


class RopeTable:
    """cos and sin for all positions up to a capacity, filled as positions are first used.

    A static kind fills each row once. With `dynamic`, a new base invalidates the rows; only the rows a step rotates
    are filled again, because keys in the cache are not rotated twice.
    """

    _BLOCK = 512

    def __init__(self, config: ModelConfig, capacity: int) -> None:
        self._config = config
        self._frequencies = inverse_frequencies(config.rope, config.head_dim, config.max_position_embeddings)
        self._length: int | None = None
        self._filled = (0, 0)
        shape = (capacity, config.head_dim // 2)
        self.cos: F32 = aligned_zeros(shape, np.float32)
        self.sin: F32 = aligned_zeros(shape, np.float32)

    def prepare(self, start: int, stop: int, length_reached: int) -> None:
        """Makes rows [start, stop) of `cos` and `sin` valid for a step that has reached `length_reached` tokens."""
        if self._config.rope.kind == "dynamic":
            length = max(length_reached, self._config.max_position_embeddings)
            if length != self._length:
                self._frequencies = inverse_frequencies(
                    self._config.rope, self._config.head_dim, self._config.max_position_embeddings, length
                )
                self._length = length
                self._filled = (start, start)
        changes_every_step = (
            self._config.rope.kind == "dynamic" and length_reached > self._config.max_position_embeddings
        )
        block = 0 if changes_every_step else self._BLOCK
        low, high = self._filled
        if low <= start and stop <= high:
            return
        if low <= start <= high:
            begin, end = high, min(max(stop, high + block), len(self.cos))
            self._filled = (low, end)
        else:
            begin, end = start, stop
            self._filled = (start, stop)
        self.cos[begin:end], self.sin[begin:end] = cos_sin(self._frequencies, np.arange(begin, end, dtype=np.int64))

    def rows(self, starts: I64, counts: I64, width: int, lengths_reached: Sequence[int]) -> tuple[F32, F32, I64]:
        """Angles of a step whose sequences have bases of their own, as they have with `dynamic`.

        Args:
            starts: int64[B], the first position of each sequence in this step.
            counts: int64[B], how many of its S tokens count; those behind them get no angle.
            width: S.
            lengths_reached: of each sequence, see `inverse_frequencies`.

        Returns:
            (cos, sin), each float32[B * S, D/2], and int64[B, S], the row of every token in them.
        """
        shape = (len(starts) * width, self.cos.shape[1])
        cos, sin = aligned_zeros(shape, np.float32), aligned_zeros(shape, np.float32)
        config = self._config
        for row, (start, count) in enumerate(zip(starts.tolist(), counts.tolist())):
            frequencies = inverse_frequencies(
                config.rope, config.head_dim, config.max_position_embeddings, lengths_reached[row]
            )
            own = slice(row * width, row * width + count)
            cos[own], sin[own] = cos_sin(frequencies, np.arange(start, start + count, dtype=np.int64))
        return cos, sin, np.arange(len(cos), dtype=np.int64).reshape(len(starts), width)
