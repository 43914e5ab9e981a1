"""2 to 32 rows of activations in float32 with a weight of any format; see `few_rows.py`.

A tile of rows and vectors of outputs keeps its sums in registers, and widens a word of weights once for all of its
rows. With integer weights, sum_k (q_k - z) s x_k = s (sum_k q_k x_k - z sum_k x_k) per group of K, so that zero point
and scale are applied once per group.
"""

from __future__ import annotations

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.few_rows import RowArithmetic, RowTile, Take
from xamc.targets.kernels.opaque import opaque
from xamc.targets.kernels.weights import PackedWeight

_EXTENT = 64
"""K of a group where the format has none: 4 KiB of float16 weights, which stay in the first-level cache."""


class FloatRows(RowArithmetic):
    """Products in float32; see `RowArithmetic`."""

    def __init__(self, weight: PackedWeight, padded: E.Expr, take: Take) -> None:
        super().__init__(weight, padded, min(_EXTENT, weight.format.group_size or _EXTENT))
        self.step = weight.format.k_step
        self.x = take(self.groups * self.extent, "float32")
        # minus the sum of a group's elements
        self.counts = take(self.groups, "float32") if weight.format.quantized else None

    def fill_group(self, x: E.Buffer, source: E.Expr | int, row: E.Expr, group: E.Expr, extent: int) -> None:
        """Copies a group of a row; see `RowArithmetic`."""
        first, to = E.let(group * self.extent), E.let((group * self.padded + row) * self.extent)

        def copy(c: E.Expr, lanes: int) -> None:
            E.store(self.x, [to + c], E.load(x, [source, first + c], lanes), lanes)

        E.lanewise(extent, self.weight.isa, copy)
        for c in range(extent, -(-extent // self.step) * self.step):
            E.store(self.x, [to + c], E.f32(0))
        if self.counts is not None:
            E.store(self.counts, [group * self.padded + row], E.f32(0) - self._total(to, extent))

    def _total(self, start: E.Expr, extent: int) -> E.Expr:
        lanes = self.weight.isa.lanes
        total, rest = E.Register(lanes, initial=E.const(0, lanes)), E.Register(1, initial=E.f32(0))

        def add(c: E.Expr, count: int) -> None:
            register = total if count > 1 else rest
            register.set(register.get() + E.load(self.x, [start + c], count))

        E.lanewise(extent, self.weight.isa, add)
        return E.reduce(total.get(), lanes, E.add) + rest.get()

    def multiply(self, panel: E.Expr, group: E.Expr, extent: int, tile: RowTile) -> None:
        """See `RowArithmetic`."""
        weight, lanes = self.weight, self.weight.isa.lanes
        vectors = range(len(tile.columns))
        sums = [[self._start(tile, row, v) for v in vectors] for row in range(tile.height)]
        at = E.let(group * self.padded + tile.top)
        element = E.let(at * self.extent)
        first, steps = E.let(group * (self.extent // self.step)), -(-extent // self.step)
        with opaque(steps) as count, E.serial(count) as step:
            at_step = E.let(first + step)
            weight.prefetch(panel, at_step)
            words = [E.let(weight.word(panel, at_step, column, lanes)) for column in tile.columns]
            for offset in range(self.step):
                values = [E.let(weight.value(word, offset, lanes)) for word in words]
                for row, registers in enumerate(sums):
                    index = element + (row * self.extent + offset) + step * self.step
                    factor = E.let(E.splat(E.load(self.x, [index]), lanes))
                    for value, register in zip(values, registers):
                        register.set(E.fma(value, factor, register.get(), lanes))
        if self.counts is not None:
            self._put_scaled(panel, group, tile, sums, self.counts, at)
            return
        for row, registers in enumerate(sums):
            for v, register in enumerate(registers):
                tile.put(row, v, register.get())

    def _start(self, tile: RowTile, row: int, v: int) -> E.Register:
        lanes = self.weight.isa.lanes
        return E.Register(lanes, initial=tile.sum(row, v) if self.counts is None else E.const(0, lanes))

    def _put_scaled(
        self,
        panel: E.Expr,
        group: E.Expr,
        tile: RowTile,
        sums: list[list[E.Register]],
        counts: E.Buffer,
        at: E.Expr,
    ) -> None:
        """Adds the sums of a group with integers: less their zero points, times their scales."""
        weight, lanes = self.weight, self.weight.isa.lanes
        stored = E.i32(0)
        if weight.format.group_size is not None:
            stored = E.let(group // (weight.format.group_size // self.extent))
        scales = [E.let(weight.scale(panel, stored, column, lanes)) for column in tile.columns]
        zeros = [E.let(weight.zero(panel, stored, column, lanes)) for column in tile.columns]
        for row, registers in enumerate(sums):
            negative = E.let(E.splat(E.load(counts, [at + row]), lanes))
            for v, register in enumerate(registers):
                centered = E.fma(zeros[v], negative, register.get(), lanes)
                tile.put(row, v, E.fma(centered, scales[v], tile.sum(row, v), lanes))
