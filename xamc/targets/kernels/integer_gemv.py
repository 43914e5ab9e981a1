"""y = x W^T for one row of activations, rounded to integers: streams the packed weights once."""

from __future__ import annotations

from xamc.artifact.panels import PANEL
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.gemv import KChunk, Total, panels_together
from xamc.targets.kernels.integer_dot import IntegerActivations, IntegerDot
from xamc.targets.kernels.quantize_activations import QuantizedRow
from xamc.targets.kernels.weights import PackedWeight

_SUMS = 8
"""Independent sums that hide the latency of the multiply-add, and that leave registers for its operands."""


class IntegerProducts:
    """Products of integers, see `Products`.

    With q_k the codes, z and s zero point and scale of the weights, a_k and t codes and scale of the activations,
    sum_k (q_k - z) s a_k t = (sum_k q_k a_k - z sum_k a_k) s t per group; both sums are integers.
    """

    def __init__(self, weight: PackedWeight, activations: IntegerActivations) -> None:
        self.weight, self.isa = weight, weight.isa
        self.dot = IntegerDot.of(weight.format, weight.isa, activations)
        sums = panels_together(weight) * PANEL // weight.isa.lanes
        # several sums per vector hide the latency of few
        self.chains = self.dot.units if sums * self.dot.units <= _SUMS else 1
        self.activations = QuantizedRow(self.dot, weight.k)
        self.extent, self.whole, self.rest = self.dot.group, self.activations.whole, self.activations.rest

    def take(self, x: E.Buffer) -> None:
        """Rounds x; see `Products`."""
        self.activations.fill(x)

    def add_chunk(self, panels: list[E.Expr], chunk: KChunk, columns: list[E.Expr], totals: list[list[Total]]) -> None:
        """Adds a group of activations; see `Products`."""
        weight, dot, lanes = self.weight, self.dot, self.isa.lanes
        sums = [[[dot.sums() for _ in range(self.chains)] for _ in columns] for _ in panels]
        for register in (r for panel in sums for chains in panel for r in chains):
            register.zero()
        first = E.let(chunk.index * (dot.group // dot.words))
        steps, unroll = -(-chunk.extent // dot.words), weight.tiles.words
        with chunk.loop(steps // unroll) as block:
            for i in range(unroll):
                self.step(panels, E.let(first + block * unroll + i), columns, sums)
        for step in range(steps // unroll * unroll, steps):
            self.step(panels, E.let(first + step), columns, sums)
        stored = dot.weight_group(chunk.index)
        factors_of = [[E.let(weight.scale(panel, stored, column, lanes)) for column in columns] for panel in panels]
        zeros_of = [[E.let(weight.zero(panel, stored, column, lanes)) for column in columns] for panel in panels]
        for panel in panels:
            weight.prefetch_group(panel, stored, len(panels))
        scale = E.let(E.splat(E.load(self.activations.scales, [chunk.index]), lanes))
        negative = E.let(E.splat(E.load(self.activations.counts, [chunk.index]), lanes))
        for factors, zeros, vectors, into in zip(factors_of, zeros_of, sums, totals):
            for v, registers in enumerate(vectors):
                centered = E.fma(zeros[v], negative, dot.total(registers), lanes)
                into[v].add_product(centered, factors[v] * scale)

    def step(
        self, panels: list[E.Expr], word: E.Expr, columns: list[E.Expr], sums: list[list[list[E.Register]]]
    ) -> None:
        """Adds one weight word of every output."""
        weight, dot, lanes = self.weight, self.dot, self.isa.lanes
        units = [
            dot.activation(self.activations.codes, [word * dot.words + unit * dot.unit]) for unit in range(dot.units)
        ]
        for panel, vectors in zip(panels, sums):
            weight.prefetch(panel, word, len(panels))
            for column, registers in zip(columns, vectors):
                operands = dot.operands(E.let(weight.word(panel, word, column, lanes)))
                for unit, operand in enumerate(operands):
                    dot.multiply_add(operand, units[unit], registers[unit % self.chains])
