"""Runs the program of one token (`code/decode.json`) on the weights, a KV cache and a workspace, in a single call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xamc.artifact.step_program import StepProgram
from xamc.runtime.executor import F32
from xamc.runtime.memory import Bytes, aligned_zeros


class StepRunner:
    """The arguments of the function `decode`, made once; a step writes token and position into them.

    Attributes:
        table: int32 [1, M], the block table that the next step reads.
        logits: float32 [1, V] of the last step.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        from_dlpack: Callable[[Any], Any],
        program: StepProgram,
        weights: tuple[Bytes, Sequence[int]],
        pools: tuple[Bytes, Sequence[int]],
        table_width: int,
        vocabulary: int,
    ) -> None:
        """Args:
        function: `decode` of the library.
        from_dlpack: makes a tensor of an array.
        program: what it runs.
        weights: the weights' memory, and where in it each buffer lies.
        pools: the KV cache's memory, and where in it each pool lies.
        table_width: columns M of the block table.
        vocabulary: logits V.

        Raises:
            RecordError: an operand of the program is the number of no buffer or pool.
        """
        rows = program.table(weights[1], pools[1])
        self._program = aligned_zeros((len(rows), program.width), np.int64)
        self._program[...] = rows
        self._ids, self._position = aligned_zeros((1, 1), np.int64), aligned_zeros((1, 1), np.int64)
        self._index = aligned_zeros((1,), np.int64)
        self.table: NDArray[np.int32] = aligned_zeros((1, table_width), np.int32)
        self.logits: F32 = aligned_zeros((1, vocabulary), np.float32)
        workspace = aligned_zeros((max(program.workspace, 64),), np.uint8)
        self._function = function
        before = (self._ids, self._position, self._index, self.table)
        behind = (self._program, weights[0], pools[0], workspace, self.logits)
        # the tensors borrow the arrays' memory
        self._before, self._behind = tuple(map(from_dlpack, before)), tuple(map(from_dlpack, behind))

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
        self._function(*self._before, cos, sin, *self._behind)
        return self.logits
