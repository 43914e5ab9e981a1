"""The kernels of a decode step (`decode_kernels.py`) for 2 to 32 rows, one token each.

What comes before the work that is shared out, every row's norm, gate, merging of attention and rounding, is shared
out by rows, once, and the threads meet behind it: done by every thread for all rows it would cost more. It lies in
`prepared`, memory that the next instruction uses again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xamc.artifact.step_program import PREPARED_K
from xamc.errors import InternalError
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.attention_decode import SPLITS, Span
from xamc.targets.kernels.decode_kernels import (
    AttentionKernel,
    DecodeKernel,
    EmbeddingKernel,
    LinearKernel,
    Operands,
    StepInputs,
)
from xamc.targets.kernels.embedding import take_row
from xamc.targets.kernels.few_rows import FewRows, Heights, RowArithmetic
from xamc.targets.kernels.gemv import Outputs
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.linear import row_arithmetic
from xamc.targets.kernels.threads import barrier, own_share
from xamc.targets.kernels.weights import PackedWeight

_SHARES = 1024
"""What threads share out when tasks differ in size: so many equal parts of the work."""


@dataclass(frozen=True)
class Rows:
    """The rows of a step.

    Attributes:
        count: how many.
        heights: the register tiles that cover them.
        prepared: uint8 [N], memory for what linear layers multiply.
    """

    count: E.Expr
    heights: Heights
    prepared: E.Buffer


def emit_rows(kernel: DecodeKernel, operands: Operands, inputs: StepInputs, rows: Rows, isa: Isa) -> None:
    """Emits the statements of a kernel, which all threads run.

    Raises:
        InternalError: E1417, it is none of the known ones.
    """
    if isinstance(kernel, EmbeddingKernel):
        table, y = kernel.take(operands, inputs, isa)
        with E.parallel(rows.count) as row:
            take_row(table, E.let(E.load(inputs.ids, [row, 0])), y, row)
    elif isinstance(kernel, LinearKernel):
        _linear(kernel, operands, inputs, rows, isa)
    elif isinstance(kernel, AttentionKernel):
        _attention(kernel, operands, inputs, rows, isa)
    else:
        raise InternalError("E1417", f"{kernel.key} has no form for several rows")


def prepared_bytes(kernel: DecodeKernel) -> int:
    """Bytes of `prepared` that a kernel needs at most for a row, the same on every CPU level.

    Rows of float32 up to whole groups, and a float32 for every group of 32: integers and what belongs to them take
    less.
    """
    if not isinstance(kernel, LinearKernel):
        return 0
    k = -(-kernel.source.width // PREPARED_K) * PREPARED_K
    return (k + k // 32) * 4


def _linear(kernel: LinearKernel, operands: Operands, inputs: StepInputs, rows: Rows, isa: Isa) -> None:
    taken = kernel.take(operands, inputs, isa)
    arithmetic = _arithmetic(kernel, taken.weight, rows)
    with barrier(), E.parallel(rows.heights.padded) as row:
        # rows that only fill a tile are copies of the last one
        x, place = taken.read(E.let(E.minimum(row, rows.count - 1)))
        arithmetic.fill(x, place, row)
    outputs = Outputs(taken.weight, taken.bias, taken.residual, taken.y)
    panels = taken.weight.layout.panels // (2 if kernel.gate else 1)
    FewRows(outputs, arithmetic, rows.heights, rows.count, kernel.gate).emit(*own_share(panels))


def _arithmetic(kernel: LinearKernel, weight: PackedWeight, rows: Rows) -> RowArithmetic:
    end = E.Register(1, "int64", E.i64(0))

    def take(count: int, dtype: str) -> E.Buffer:
        offset, elements = E.let(end.get()), rows.heights.padded * count
        end.set((offset + elements * np.dtype(dtype).itemsize + 63) // 64 * 64)
        return E.view(rows.prepared, offset, (elements,), dtype)

    return row_arithmetic(weight, kernel.activations, rows.heights.padded, take)


def _attention(kernel: AttentionKernel, operands: Operands, inputs: StepInputs, rows: Rows, isa: Isa) -> None:
    """The update of the cache, then parts of all rows and heads, one after the other.

    A thread takes those that begin in its share of all tiles.

    How a row is cut depends on its own length alone.
    """
    pieces = kernel.take(operands, inputs, isa)
    heads = kernel.kv_heads
    with barrier(), E.parallel(rows.count * heads) as task:
        pieces.cache(E.let(task // heads), E.let(task % heads))

    def span_of(row: E.Expr) -> Span:
        return Span(E.let(E.load(inputs.write_index, [row])), kernel.window)

    total = E.Register(1, "int64", E.i64(0))
    with E.serial(rows.count) as row:
        total.set(total.get() + span_of(row).tiles * heads)
    begin, count = own_share(_SHARES)
    low = E.let(E.i64(begin) * total.get() // _SHARES)
    high = E.let(E.i64(begin + count) * total.get() // _SHARES)
    before = E.Register(1, "int64", E.i64(0))
    with E.serial(rows.count) as row:
        span = span_of(row)
        splits = E.let(E.minimum(span.tiles, E.i64(SPLITS)))
        with E.serial(heads) as head, E.serial(splits) as split:
            at = E.let(before.get() + head * span.tiles + span.share(split, splits)[0])
            mine = E.both(at >= low, at < high)
            E.when(mine, lambda: pieces.attend(row, span, head, split, splits))
        before.set(before.get() + span.tiles * heads)
