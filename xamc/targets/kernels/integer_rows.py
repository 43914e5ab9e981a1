"""2 to 32 rows of activations, rounded to integers, with a weight of integers; see `few_rows.py`.

A tile of rows and vectors of outputs keeps its sums in registers, and takes a word of weights apart once for all of
its rows.
"""

from __future__ import annotations

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.few_rows import RowArithmetic, RowTile, Take
from xamc.targets.kernels.integer_dot import IntegerActivations, IntegerDot
from xamc.targets.kernels.opaque import opaque
from xamc.targets.kernels.quantize_activations import quantize_group
from xamc.targets.kernels.weights import PackedWeight


class IntegerRows(RowArithmetic):
    """Products of integers, whose sums are those of `IntegerProducts`; see `RowArithmetic`."""

    def __init__(self, weight: PackedWeight, activations: IntegerActivations, padded: E.Expr, take: Take) -> None:
        self.dot = IntegerDot.of(weight.format, weight.isa, activations)
        super().__init__(weight, padded, self.dot.group)
        self.codes = take(self.groups * self.extent, self.dot.activations)
        # minus the sum of a group's codes
        self.scales, self.counts = (take(self.groups, "float32") for _ in range(2))

    def fill_group(self, x: E.Buffer, source: E.Expr | int, row: E.Expr, group: E.Expr, extent: int) -> None:
        """Rounds a group of a row; see `RowArithmetic`."""
        place = E.let(group * self.padded + row)
        first, to = E.let(group * self.extent), E.let(place * self.extent)
        scale, count = quantize_group(
            self.dot, x, source, first, extent,
            lambda c, codes, lanes: E.store(self.codes, [to + (c - first)], codes, lanes),
        )  # fmt: skip
        E.store(self.scales, [place], scale)
        E.store(self.counts, [place], E.f32(0) - count)

    def multiply(self, panel: E.Expr, group: E.Expr, extent: int, tile: RowTile) -> None:
        """See `RowArithmetic`."""
        weight, dot, lanes = self.weight, self.dot, self.weight.isa.lanes
        # several sums per vector hide the latency of few
        chains = dot.units if tile.height * len(tile.columns) * dot.units <= weight.isa.registers // 2 else 1
        sums = [[[dot.sums() for _ in range(chains)] for _ in tile.columns] for _ in range(tile.height)]
        for register in (register for vectors in sums for each in vectors for register in each):
            register.zero()
        at = E.let(group * self.padded + tile.top)
        code = E.let(at * self.extent)
        first, steps = E.let(group * (dot.group // dot.words)), -(-extent // dot.words)
        with opaque(steps) as count, E.serial(count) as step:
            word = E.let(first + step)
            weight.prefetch(panel, word)
            operands = [dot.operands(E.let(weight.word(panel, word, column, lanes))) for column in tile.columns]
            for row, vectors in enumerate(sums):
                for unit in range(dot.units):
                    index = code + (row * self.extent + unit * dot.unit) + step * dot.words
                    activation = dot.activation(self.codes, [index])
                    for parts, registers in zip(operands, vectors):
                        dot.multiply_add(parts[unit], activation, registers[unit % chains])
        stored = dot.weight_group(group)
        weight.prefetch_group(panel, stored)
        factors = [E.let(weight.scale(panel, stored, column, lanes)) for column in tile.columns]
        zeros = [E.let(weight.zero(panel, stored, column, lanes)) for column in tile.columns]
        for row, vectors in enumerate(sums):
            scale = E.let(E.splat(E.load(self.scales, [at + row]), lanes))
            negative = E.let(E.splat(E.load(self.counts, [at + row]), lanes))
            for v, registers in enumerate(vectors):
                centered = E.fma(zeros[v], negative, dot.total(registers), lanes)
                tile.put(row, v, E.fma(centered, factors[v] * scale, tile.sum(row, v), lanes))
