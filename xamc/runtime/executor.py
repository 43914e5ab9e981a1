"""What runs a model's graph: one small protocol, one implementation per target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from xamc.errors import InternalError

if TYPE_CHECKING:
    from xamc.runtime.block_cache import BlockCache

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]


ForwardOne = Callable[[int, int, F32, F32], F32]
"""(token, positions cached before it, cos, sin) -> logits float32[1, V], valid until the next step.

A shorter way for one token of the only row, which an executor may offer as its attribute `forward_one`.
"""


@dataclass(frozen=True)
class Step:
    """One call of the model: S further tokens for each of B rows, right-padded.

    Attributes:
        input_ids: int64[B, S]; entries beyond a row's length are any valid token.
        write_index: int64[B], tokens of each row that are cached already.
        lengths: int64[B], how many of the S tokens of each row count (0 to S).
        rope_cos: float32[R, D/2], valid for all positions of this step.
        rope_sin: float32[R, D/2].
        all_positions: whether the logits of every position are wanted, or of each row's last token only.
        rope_rows: int64[B, S], the row of each token in `rope_cos` and `rope_sin`; None: its position. With a dynamic
            RoPE the angle at a position differs from sequence to sequence.
    """

    input_ids: I64
    write_index: I64
    lengths: I64
    rope_cos: F32
    rope_sin: F32
    all_positions: bool = False
    rope_rows: I64 | None = None

    def of_rows(self, rows: NDArray[np.intp]) -> Step:
        """The step of some rows alone, no wider than they need."""
        width = int(self.lengths[rows].max())
        return replace(
            self,
            input_ids=self.input_ids[rows, :width],
            write_index=self.write_index[rows],
            lengths=self.lengths[rows],
            rope_rows=None if self.rope_rows is None else self.rope_rows[rows, :width],
        )

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
        """int64[B], where in the S tokens each row's last one stands; 0 for a row without any."""
        return np.maximum(self.lengths - 1, 0)


class Executor(Protocol):
    """Runs steps on a KV cache that it owns.

    The session checks token ids and positions before it calls an executor; an executor trusts its step.
    """

    @property
    def threads(self) -> int:
        """How many threads the kernels use."""
        ...

    @property
    def pages(self) -> BlockCache | None:
        """Whose block is whose, if the KV cache is paged; begins batches then in place of `allocate`."""
        ...

    def allocate(self, batch: int) -> None:
        """Makes a KV cache for `batch` rows of up to the context limit; the old content is gone."""
        ...

    def forward(self, step: Step) -> F32:
        """Runs one step and updates the KV cache.

        Returns:
            Logits, float32[B, S, V] for all positions, else float32[B, 1, V]; those of padding are undefined. The
            array may be a view of memory that the next step writes over.
        """
        ...


def forward_rows(step: Step, rows: int, run: Callable[[int, int], F32]) -> F32:
    """A step on an executor that takes one row at a time.

    Args:
        step: the step; rows without tokens are left out.
        rows: rows of the executor's KV cache.
        run: (row, number of tokens T) -> logits float32[T, V], of which only the last are read unless the step wants
            all positions.

    Returns:
        What `Executor.forward` returns.

    Raises:
        InternalError: E1617, another number of rows than the cache has, or no token at all.
    """
    batch, length = step.input_ids.shape
    if batch != rows:
        raise InternalError("E1617", f"a step of {batch} rows on a KV cache of {rows}")
    result: F32 | None = None
    for row, tokens in enumerate(step.lengths.tolist()):
        if tokens == 0:
            continue
        logits = run(row, tokens)
        if result is None:
            result = np.zeros((batch, length if step.all_positions else 1, logits.shape[-1]), np.float32)
        if step.all_positions:
            result[row, :tokens] = logits
        else:
            result[row, 0] = logits[-1]
    if result is None:
        raise InternalError("E1617", "a step without a single token")
    return result
