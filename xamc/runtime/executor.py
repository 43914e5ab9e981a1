"""What runs a model's graph: one small protocol, one implementation per target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from xamc.runtime.block_cache import BlockCache

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]


ForwardOne = Callable[[int, int, int, F32, F32], F32]
"""(slot, token, positions cached before it, cos, sin) -> logits float32[1, V], valid until the next step.

A shorter way for a step of one token, which an executor may offer as its attribute `forward_one`.
"""


ForwardTokens = Callable[[I64, I64, I64, I64, F32, F32], F32]
"""(slots, tokens, how many are cached before each, its row of angles, cos, sin) -> logits float32[R, V].

The first four are [R]; the logits are valid until the next step.
Rows may be consecutive positions of one sequence, in order. An executor may offer it as its attribute `forward_tokens`,
and how many rows it takes as `token_rows`.
"""


@dataclass(frozen=True)
class Step:
    """One call of the model: up to S further tokens for each of B sequences, right-padded.

    Attributes:
        input_ids: int64[B, S]; entries beyond a row's length are any valid token.
        slots: int64[B], the row of the KV cache that each sequence has.
        write_index: int64[B], tokens of each row that are cached already.
        lengths: int64[B], how many of the S tokens of each row count (1 to S).
        rope_cos: float32[R, D/2], valid for all positions of this step.
        rope_sin: float32[R, D/2].
        all_positions: whether the logits of every position are wanted, or of each row's last token only.
        rope_rows: int64[B, S], the row of each token in `rope_cos` and `rope_sin`; None: its position. With a dynamic
            RoPE the angle at a position differs from sequence to sequence.
    """

    input_ids: I64
    slots: I64
    write_index: I64
    lengths: I64
    rope_cos: F32
    rope_sin: F32
    all_positions: bool = False
    rope_rows: I64 | None = None

    def tables_of_row(self, row: int) -> tuple[F32, F32]:
        """cos and sin of one sequence by position, up to its last one; undefined where no token of this step reads."""
        start, tokens = int(self.write_index[row]), int(self.lengths[row])
        if self.rope_rows is None:
            return self.rope_cos[: start + tokens], self.rope_sin[: start + tokens]
        shape, own = (start + tokens, self.rope_cos.shape[1]), self.rope_rows[row, :tokens]
        cos, sin = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        cos[start:], sin[start:] = self.rope_cos[own], self.rope_sin[own]
        return cos, sin

    @property
    def table_rows(self) -> I64:
        """int64[B, S], where each token's angles stand; of padding anywhere inside, as no kernel checks it."""
        if self.rope_rows is not None:
            return self.rope_rows
        positions = self.write_index[:, None] + np.arange(self.input_ids.shape[1], dtype=np.int64)[None, :]
        clipped: I64 = np.minimum(positions, len(self.rope_cos) - 1)
        return clipped

    @property
    def last_index(self) -> I64:
        """int64[B], where in the S tokens each row's last one stands."""
        return self.lengths - 1


class Executor(Protocol):
    """Runs steps on a KV cache that it owns.

    Token ids and positions are checked before (`xamc.runtime.slots`); an executor trusts its step.
    """

    @property
    def threads(self) -> int:
        """How many threads the kernels use."""
        ...

    @property
    def pages(self) -> BlockCache | None:
        """Whose block is whose, if the KV cache is paged; sequences begin and end there, in place of `clear`."""
        ...

    def clear(self, slot: int) -> None:
        """Makes one row of a contiguous KV cache empty, as all are when the artifact is loaded."""
        ...

    def forward(self, step: Step) -> F32:
        """Runs one step and updates the KV cache.

        Returns:
            Logits, float32[B, S, V] for all positions, else float32[B, 1, V]; those of padding are undefined. The
            array may be a view of memory that the next step writes over.
        """
        ...


def forward_rows(step: Step, run: Callable[[int, int], F32]) -> F32:
    """A step on an executor that takes one row at a time.

    Args:
        step: the step.
        run: (row of the step, number of tokens T) -> logits float32[T, V], of which only the last are read unless the
            step wants all positions.

    Returns:
        What `Executor.forward` returns.
    """
    batch, length = step.input_ids.shape
    result: F32 | None = None
    for row, tokens in enumerate(step.lengths.tolist()):
        logits = run(row, tokens)
        if result is None:
            result = np.zeros((batch, length if step.all_positions else 1, logits.shape[-1]), np.float32)
        if step.all_positions:
            result[row, :tokens] = logits
        else:
            result[row, 0] = logits[-1]
    assert result is not None, "a step without a single row"
    return result
