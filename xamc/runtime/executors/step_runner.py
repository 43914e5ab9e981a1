"""Runs the program of a token (`code/decode.json`) on the weights, a KV cache and a workspace, in a single call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xamc.artifact.step_program import StepProgram
from xamc.runtime.executor import F32, I64
from xamc.runtime.memory import Bytes, aligned_zeros


class StepRunner:
    """The arguments of `decode` and `decode_rows`, made once; a step writes tokens and positions into them.

    Attributes:
        rows: most tokens of a step.
        consecutive: whether they may be consecutive ones of a sequence.
        table: int32 [rows, M], the block tables that the next step reads, those of its sequences first.
        logits: float32 [rows, V] of the last step.
    """

    def __init__(
        self,
        functions: Sequence[Callable[..., Any]],
        from_dlpack: Callable[[Any], Any],
        program: StepProgram,
        weights: tuple[Bytes, Sequence[int]],
        pools: tuple[Bytes, Sequence[int]],
        table_width: int,
        vocabulary: int,
        rows: int = 1,
    ) -> None:
        """Args:
        functions: `decode` of the library and, for more rows than one, `decode_rows`.
        from_dlpack: makes a tensor of an array.
        program: what they run.
        weights: the weights' memory, and where in it each buffer lies.
        pools: the KV cache's memory, and where in it each pool lies.
        table_width: columns M of the block table.
        vocabulary: logits V.
        rows: most sequences of a step; no more than the program's.

        Raises:
            RecordError: an operand of the program is the number of no buffer or pool.
        """
        self.rows = rows
        self.consecutive = program.consecutive
        self._ids, self._position = (aligned_zeros((rows, 1), np.int64) for _ in range(2))
        self._index = aligned_zeros((rows,), np.int64)
        self.table: NDArray[np.int32] = aligned_zeros((rows, table_width), np.int32)
        self.logits: F32 = aligned_zeros((rows, vocabulary), np.float32)
        # untouched pages of these cost nothing
        self._workspace, self._prepared = (aligned_zeros((max(n, 64),), np.uint8) for n in program.memory(rows))
        self._functions, self._from_dlpack = functions, from_dlpack
        # the tensors borrow the arrays' memory
        self._regions = tuple(map(from_dlpack, (weights[0], pools[0], self._workspace)))
        self._programs = []
        for count in dict.fromkeys((1, rows)):
            steps = program.table(weights[1], pools[1], count)
            array = aligned_zeros((len(steps), program.width), np.int64)
            array[...] = steps
            self._programs.append(from_dlpack(array))
        self._tensors: dict[int, tuple[tuple[Any, ...], tuple[Any, ...]]] = {}
        self._of(1)

    def _of(self, count: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The arguments before RoPE's tables and behind them, for so many rows."""
        if count not in self._tensors:
            make = self._from_dlpack
            before = (self._ids, self._position, self._index, self.table)
            prepared = () if count == 1 else (make(self._prepared),)
            behind = (self._programs[-1 if count > 1 else 0], *self._regions, *prepared, make(self.logits[:count]))
            self._tensors[count] = tuple(make(array[:count]) for array in before), behind
        return self._tensors[count]

    def run(self, token: int, position: int, cos: Any, sin: Any) -> F32:
        """Logits float32 [1, V] of a token that stands behind `position` cached ones; the next step writes over them.

        Args:
            token: its id.
            position: how many positions are cached.
            cos: RoPE's table, a tensor float32 [R, D/2].
            sin: likewise.
        """
        self._ids[0, 0] = token
        self._position[0, 0] = self._index[0] = position
        before, behind = self._of(1)
        self._functions[0](*before, cos, sin, *behind)
        return self.logits[:1]

    def run_rows(self, tokens: I64, positions: I64, angles: I64, cos: Any, sin: Any) -> F32:
        """Logits float32 [B, V] of a token of each of B sequences; the next step writes over them.

        Args:
            tokens: ids int64 [B], 2 to `rows` of them.
            positions: int64 [B], how many positions of each sequence are cached.
            angles: int64 [B], the row of each token in RoPE's tables.
            cos: RoPE's table, a tensor float32 [R, D/2].
            sin: likewise.
        """
        count = len(tokens)
        self._ids[:count, 0] = tokens
        self._index[:count], self._position[:count, 0] = positions, angles
        before, behind = self._of(count)
        self._functions[1](*before, cos, sin, *behind)
        return self.logits[:count]
