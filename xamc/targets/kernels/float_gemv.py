"""y = x W^T for one row of activations, in float32."""

from __future__ import annotations

from xamc.artifact.panels import PANEL
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.gemv import KChunk, Total, panels_together
from xamc.targets.kernels.weights import PackedWeight

_CHAINS = 8
"""Independent accumulators that hide the latency of the multiply-add (4 cycles, two per cycle)."""

PanelSums = list[list[E.Register]]
"""Registers [panel][vector]."""


class FloatProducts:
    """Products in float32, see `Products`.

    For integer weights, sum_k (q_k - z) s x_k = s (sum_k q_k x_k - z sum_k x_k) per chunk, so that the zero point and
    the scale are applied once per chunk. Integers stay at their bit position p in the 32-bit word they are stored in
    and the activations are multiplied by 2^-p beforehand, which is exact.
    """

    def __init__(self, weight: PackedWeight) -> None:
        self.weight, self.isa = weight, weight.isa
        self.sets = max(1, _CHAINS // (panels_together(weight) * (PANEL // weight.isa.lanes)))
        self.step = weight.format.k_step
        self.steps = -(-weight.k // self.step)
        self.extent = weight.format.group_size or weight.tiles.unroll
        self.whole, self.rest = divmod(weight.k, self.extent)

    def take(self, x: E.Buffer) -> None:
        """See `Products`."""
        weight, k = self.weight, self.weight.k
        self.sums: E.Buffer | None = None
        if not weight.format.quantized and k % self.step == 0:
            self.x = x
            return
        self.x = E.scratch((1, self.steps * self.step))
        for i in range(k, self.steps * self.step):
            E.store(self.x, [0, i], E.f32(0))
        if weight.format.quantized:
            self.sums = E.scratch((self.whole + (self.rest > 0),))
            self.scale_row(x, self.sums)
        else:
            E.lanewise(k, self.isa, lambda i, lanes: E.store(self.x, [0, i], E.load(x, [0, i], lanes), lanes))

    def factors(self) -> E.Buffer:
        """What activations are multiplied with: powers of two that repeat every K step."""
        weight = self.weight
        exponents = [weight.in_place(E.const(0, 1, "uint32"), offset, 1)[1] for offset in range(self.step)]
        # a multiple of the lanes makes them loadable at any vector
        period = max(self.step, self.isa.lanes)
        factors = E.scratch((period,))
        for i in range(period):
            E.store(factors, [i], E.f32(2.0 ** -exponents[i % self.step]))
        return factors

    def scale_row(self, x: E.Buffer, sums: E.Buffer) -> None:
        """Copies the row, times what its elements are multiplied with, and adds up the K of each chunk."""
        factors = self.factors()
        lanes = self.isa.lanes
        period = max(self.step, lanes)

        def scale_chunk(chunk: E.Expr, extent: int) -> None:
            first = E.let(chunk * self.extent)
            total = E.Register(lanes, initial=E.const(0, lanes))
            rest = E.Register(1, initial=E.f32(0))

            def scale(i: E.Expr, count: int) -> None:
                value = E.let(E.load(x, [0, first + i], count))
                register = total if count > 1 else rest
                register.set(register.get() + value)
                E.store(self.x, [0, first + i], value * E.load(factors, [i % period], count), count)

            E.lanewise(extent, self.isa, scale)
            E.store(sums, [chunk], E.reduce(total.get(), lanes, E.add) + rest.get())

        with E.serial(self.whole) as chunk:
            scale_chunk(chunk, self.extent)
        if self.rest:
            scale_chunk(E.i32(self.whole), self.rest)

    def add_chunk(self, panels: list[E.Expr], chunk: KChunk, columns: list[E.Expr], totals: list[list[Total]]) -> None:
        """See `Products`."""
        sets = [[[E.Register(self.isa.lanes) for _ in columns] for _ in panels] for _ in range(self.sets)]
        for register in (r for panels_sums in sets for vectors in panels_sums for r in vectors):
            register.zero()
        first, steps = E.let(chunk.index * (self.extent // self.step)), -(-chunk.extent // self.step)
        software = self.weight.format.kind == "float16" and not self.isa.has_f16c
        # a conversion in software is long
        unroll = 1 if software else self.weight.tiles.words
        with chunk.loop(steps // unroll) as block:
            for i in range(unroll):
                self.add(panels, E.let(first + block * unroll + i), i, columns, sets)
        for i in range(steps // unroll * unroll, steps):
            self.add(panels, E.let(first + i), i, columns, sets)
        for panel, vectors, into in zip(panels, self.merge(sets), totals):
            if self.sums is not None:
                self.scale(panel, chunk, columns, vectors, into, self.sums)
                continue
            for total, register in zip(into, vectors):
                total.add(register.get())

    def scale(
        self,
        panel: E.Expr,
        chunk: KChunk,
        columns: list[E.Expr],
        vectors: list[E.Register],
        into: list[Total],
        sums: E.Buffer,
    ) -> None:
        """Adds the sums of a chunk with integers: less their zero points, times their scales."""
        lanes = self.isa.lanes
        group = E.i32(0) if self.weight.format.group_size is None else chunk.index
        zeros = [E.let(self.weight.zero(panel, group, column, lanes)) for column in columns]
        scales = [E.let(self.weight.scale(panel, group, column, lanes)) for column in columns]
        negative = E.let(E.splat(E.f32(0) - E.load(sums, [chunk.index]), lanes))
        for v, partial in enumerate(vectors):
            into[v].add_product(E.fma(zeros[v], negative, partial.get(), lanes), scales[v])

    def add(self, panels: list[E.Expr], step: E.Expr, chunk: int, columns: list[E.Expr], sets: list[PanelSums]) -> None:
        """Adds one K step."""
        for i, panel in enumerate(panels):
            self.weight.prefetch(panel, step, len(panels))
            words = [E.let(self.weight.word(panel, step, column, self.isa.lanes)) for column in columns]
            for offset in range(self.step):
                values = [E.let(self.weight.in_place(word, offset, self.isa.lanes)[0]) for word in words]
                factor = E.let(E.splat(E.load(self.x, [0, step * self.step + offset]), self.isa.lanes))
                for value, register in zip(values, sets[(chunk * self.step + offset) % self.sets][i]):
                    register.set(E.fma(value, factor, register.get(), self.isa.lanes))

    @staticmethod
    def merge(sets: list[PanelSums]) -> PanelSums:
        """The sums of all sets, in the first one."""
        for other in sets[1:]:
            for registers, partials in zip(sets[0], other):
                for register, partial in zip(registers, partials):
                    register.set(register.get() + partial.get())
        return sets[0]
