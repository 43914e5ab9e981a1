"""2 to 32 rows of activations in float32 with a weight of any format; see `few_rows.py`.

Weights are widened, and those of integers have zero point and scale applied, once for all rows of a register tile.
Activations lie as they are read: those that all rows have in one group of K side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.few_rows import Place, Take
from xamc.targets.kernels.opaque import opaque
from xamc.targets.kernels.weights import PackedWeight

_EXTENT = 64
"""K of a group where the format has none: 4 KiB of float16 weights, which stay in the first-level cache."""


class FloatRows:
    """Products in float32, see `few_rows.RowArithmetic`; `padded` rows lie in flat memory that `take` yields."""

    def __init__(self, weight: PackedWeight, padded: E.Expr, take: Take) -> None:
        self.weight, self.padded = weight, padded
        self.step = weight.format.k_step
        self.extent = min(_EXTENT, weight.format.group_size or _EXTENT)
        self.whole, self.rest = divmod(weight.k, self.extent)
        self.x = take(padded * ((self.whole + (self.rest > 0)) * self.extent), "float32")

    def fill(self, x: E.Buffer, source: E.Expr | int, row: E.Expr | int) -> None:
        """See `few_rows.RowArithmetic`."""

        def one(group: E.Expr, extent: int) -> None:
            first, to = E.let(group * self.extent), E.let((group * self.padded + row) * self.extent)

            def copy(c: E.Expr, lanes: int) -> None:
                E.store(self.x, [to + c], E.load(x, [source, first + c], lanes), lanes)

            E.lanewise(extent, self.weight.isa, copy)
            for c in range(extent, -(-extent // self.step) * self.step):
                E.store(self.x, [to + c], E.f32(0))

        with E.serial(self.whole) as group:
            one(group, self.extent)
        if self.rest:
            one(E.i32(self.whole), self.rest)

    def tile(
        self,
        panel: E.Expr,
        group: E.Expr,
        extent: int,
        top: E.Expr,
        height: int,
        columns: Sequence[E.Expr],
        totals: E.Buffer,
        place: Place,
    ) -> None:
        """See `few_rows.RowArithmetic`."""
        weight, lanes = self.weight, self.weight.isa.lanes
        sums = [[E.Register(lanes, initial=E.load(totals, place(row, v), lanes)) for v in range(len(columns))]
                for row in range(height)]  # fmt: skip
        at = E.let((group * self.padded + top) * self.extent)
        first, steps = E.let(group * (self.extent // self.step)), -(-extent // self.step)
        widen = self._widened(panel, group, columns)
        with opaque(steps) as count, E.serial(count) as step:
            at_step = E.let(first + step)
            weight.prefetch(panel, at_step)
            words = [E.let(weight.word(panel, at_step, column, lanes)) for column in columns]
            for offset in range(self.step):
                values = [E.let(widen(word, offset, v)) for v, word in enumerate(words)]
                for row, registers in enumerate(sums):
                    index = at + (row * self.extent + offset) + step * self.step
                    factor = E.let(E.splat(E.load(self.x, [index]), lanes))
                    for value, register in zip(values, registers):
                        register.set(E.fma(value, factor, register.get(), lanes))
        for row, registers in enumerate(sums):
            for v, register in enumerate(registers):
                E.store(totals, place(row, v), register.get(), lanes)

    def _widened(self, panel: E.Expr, group: E.Expr, columns: Sequence[E.Expr]):  # type: ignore[no-untyped-def]
        """What makes float32 values of a word."""
        weight, lanes = self.weight, self.weight.isa.lanes
        if not weight.format.quantized:
            return lambda word, offset, v: weight.value(word, offset, lanes)
        stored = E.i32(0)
        if weight.format.group_size is not None:
            stored = E.let(group // (weight.format.group_size // self.extent))
        scales = [E.let(weight.scale(panel, stored, column, lanes)) for column in columns]
        zeros = [E.let(weight.zero(panel, stored, column, lanes)) for column in columns]
        return lambda word, offset, v: (weight.value(word, offset, lanes) - zeros[v]) * scales[v]
