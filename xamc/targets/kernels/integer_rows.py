"""2 to 32 rows of activations, rounded to integers, with a weight of integers; see `few_rows.py`.

A tile of rows and vectors of outputs keeps its sums in registers, and takes a word of weights apart once for all of
its rows. Codes lie as they are read: those that all rows have in one group side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.few_rows import MOST_ROWS, FewRows, Heights, Place, Take
from xamc.targets.kernels.gemv import Outputs
from xamc.targets.kernels.integer_dot import IntegerActivations, IntegerDot
from xamc.targets.kernels.opaque import opaque
from xamc.targets.kernels.quantize_activations import quantize_group
from xamc.targets.kernels.weights import PackedWeight

_SERIAL_ROWS = 8
"""Below this, waking the other threads to quantize the rows costs more than they save."""


def emit_integer_rows(
    weight: PackedWeight,
    x: E.Buffer,
    bias: E.Buffer | None,
    residual: E.Buffer | None,
    y: E.Buffer,
    activations: IntegerActivations,
) -> None:
    """Emits the body; x [M, K], bias [N], residual and y [M, N], with M at most `MOST_ROWS`.

    See `IntegerProducts` for the sums.
    """
    rows = x.shape[0]
    heights = Heights(weight.isa, rows)
    k = IntegerRows.padded_k(weight, activations)
    # TVM sizes working memory by shapes alone
    sizes = iter((MOST_ROWS * k, MOST_ROWS * k, MOST_ROWS * k))
    product = IntegerRows(weight, activations, heights.padded, lambda _, dtype: E.scratch((next(sizes),), dtype))
    E.rows(heights.padded, lambda row: product.fill(x, E.let(E.minimum(row, rows - 1)), row), threshold=_SERIAL_ROWS)
    with E.parallel(weight.layout.panels) as panel:
        FewRows(Outputs(weight, bias, residual, y), product, heights, rows).emit(panel, E.i32(1))


class IntegerRows:
    """Products of integers, see `few_rows.RowArithmetic`; `padded` rows lie in flat memory that `take` yields."""

    def __init__(self, weight: PackedWeight, activations: IntegerActivations, padded: E.Expr, take: Take) -> None:
        self.weight, self.padded = weight, padded
        self.dot = IntegerDot.of(weight.format, weight.isa, activations)
        self.extent = self.dot.group
        self.whole, self.rest = divmod(weight.k, self.extent)
        groups = self.whole + (self.rest > 0)
        self.codes = take(padded * (groups * self.extent), self.dot.activations)
        # minus the sum of a group's codes
        self.scales, self.counts = (take(padded * groups, "float32") for _ in range(2))

    def fill(self, x: E.Buffer, source: E.Expr | int, row: E.Expr | int) -> None:
        """See `few_rows.RowArithmetic`."""

        def one(group: E.Expr, extent: int) -> None:
            place = E.let(group * self.padded + row)
            first, to = E.let(group * self.extent), E.let(place * self.extent)
            scale, count = quantize_group(
                self.dot, x, source, first, extent,
                lambda c, codes, lanes: E.store(self.codes, [to + (c - first)], codes, lanes),
            )  # fmt: skip
            E.store(self.scales, [place], scale)
            E.store(self.counts, [place], E.f32(0) - count)

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
        weight, dot, lanes = self.weight, self.dot, self.weight.isa.lanes
        # several sums per vector hide the latency of few
        chains = dot.units if height * len(columns) * dot.units <= weight.isa.registers // 2 else 1
        sums = [[[dot.sums() for _ in range(chains)] for _ in columns] for _ in range(height)]
        for register in (register for vectors in sums for each in vectors for register in each):
            register.zero()
        at = E.let(group * self.padded + top)
        code = E.let(at * self.extent)
        first, steps = E.let(group * (dot.group // dot.words)), -(-extent // dot.words)
        with opaque(steps) as count, E.serial(count) as step:
            word = E.let(first + step)
            weight.prefetch(panel, word)
            operands = [dot.operands(E.let(weight.word(panel, word, column, lanes))) for column in columns]
            for row, vectors in enumerate(sums):
                for unit in range(dot.units):
                    index = code + (row * self.extent + unit * dot.unit) + step * dot.words
                    activation = dot.activation(self.codes, [index])
                    for parts, registers in zip(operands, vectors):
                        dot.multiply_add(parts[unit], activation, registers[unit % chains])
        stored = dot.weight_group(group)
        weight.prefetch_group(panel, stored)
        factors = [E.let(weight.scale(panel, stored, column, lanes)) for column in columns]
        zeros = [E.let(weight.zero(panel, stored, column, lanes)) for column in columns]
        for row, vectors in enumerate(sums):
            scale = E.let(E.splat(E.load(self.scales, [at + row]), lanes))
            negative = E.let(E.splat(E.load(self.counts, [at + row]), lanes))
            for v, registers in enumerate(vectors):
                centered = E.fma(zeros[v], negative, dot.total(registers), lanes)
                total = E.fma(centered, factors[v] * scale, E.load(totals, place(row, v), lanes), lanes)
                E.store(totals, place(row, v), total, lanes)

    @staticmethod
    def padded_k(weight: PackedWeight, activations: IntegerActivations) -> int:
        """K up to whole groups."""
        group = IntegerDot.of(weight.format, weight.isa, activations).group
        return -(-weight.k // group) * group
