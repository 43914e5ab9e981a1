"""Y = X W^T for few rows of activations, rounded to integers: streams the packed weights once."""

from __future__ import annotations

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.gemv import Registers
from xamc.targets.kernels.integer_dot import IntegerDot
from xamc.targets.kernels.quantize_activations import QuantizedRows
from xamc.targets.kernels.weights import PackedWeight


class IntegerProducts:
    """Products of integers, see `RowProducts`.

    With q_k the codes, z and s zero point and scale of the weights, a_k and t codes and scale of the activations,
    sum_k (q_k - z) s a_k t = (sum_k q_k a_k - z sum_k a_k) s t per group; both sums are integers.
    """

    def __init__(self, weight: PackedWeight, rows: int = 1) -> None:
        self.weight, self.isa, self.rows = weight, weight.isa, rows
        self.dot = IntegerDot.of(weight.format, weight.isa)
        # several sums per vector hide the latency of one row's; more rows do so by themselves
        self.chains = self.dot.units if rows == 1 else 1
        self.activations = QuantizedRows(self.dot, weight.k, rows)

    def take(self, x: E.Buffer) -> None:
        """Rounds the rows of X; see `RowProducts`."""
        for row in range(self.rows):
            self.activations.fill(x, row if row == 0 else E.let(E.minimum(x.shape[0] - 1, row)), row)

    def panel(self, panel: E.Expr, columns: list[E.Expr]) -> list[Registers]:
        """See `RowProducts`."""
        lanes = self.isa.lanes
        totals = [[E.Register(lanes, initial=E.const(0, lanes)) for _ in columns] for _ in range(self.rows)]
        with E.serial(self.activations.whole) as group:
            self.group(panel, group, self.dot.group, columns, totals)
        if self.activations.rest:
            self.group(panel, E.i32(self.activations.whole), self.activations.rest, columns, totals)
        return totals

    def group(self, panel: E.Expr, group: E.Expr, extent: int, columns: list[E.Expr], totals: list[Registers]) -> None:
        """Adds `extent` K of a group of activations."""
        weight, dot, lanes = self.weight, self.dot, self.isa.lanes
        sums = [[[dot.sums() for _ in range(self.chains)] for _ in columns] for _ in totals]
        for registers in (chains for row in sums for chains in row):
            for register in registers:
                register.zero()
        first = E.let(group * (dot.group // dot.words))
        steps = -(-extent // dot.words)
        turn = max(1, weight.tiles.words // self.rows)
        whole = steps // turn
        with E.serial(whole) as block:
            for i in range(turn):
                self.step(panel, E.let(first + block * turn + i), columns, sums)
        for step in range(whole * turn, steps):
            self.step(panel, E.let(first + step), columns, sums)
        stored = dot.weight_group(group)
        factors = [E.let(weight.scale(panel, stored, column, lanes)) for column in columns]
        zeros = [E.let(weight.zero(panel, stored, column, lanes)) for column in columns]
        for row, vectors in enumerate(sums):
            scale = E.let(E.splat(E.load(self.activations.scales, [row, group]), lanes))
            negative = E.let(E.splat(E.load(self.activations.counts, [row, group]), lanes))
            for v, registers in enumerate(vectors):
                centered = E.fma(zeros[v], negative, dot.total(registers), lanes)
                total = totals[row][v]
                total.set(E.fma(centered, factors[v] * scale, total.get(), lanes))

    def step(self, panel: E.Expr, word: E.Expr, columns: list[E.Expr], sums: list[list[list[E.Register]]]) -> None:
        """Adds one weight word of every output."""
        weight, dot, lanes = self.weight, self.dot, self.isa.lanes
        weight.prefetch(panel, word)
        units = [
            [
                dot.activation(self.activations.codes, [row, word * dot.words + unit * dot.unit])
                for unit in range(dot.units)
            ]
            for row in range(self.rows)
        ]
        for v, column in enumerate(columns):
            operands = dot.operands(E.let(weight.word(panel, word, column, lanes)))
            for row in range(self.rows):
                for unit, operand in enumerate(operands):
                    dot.multiply_add(operand, units[row][unit], sums[row][v][unit % self.chains])
