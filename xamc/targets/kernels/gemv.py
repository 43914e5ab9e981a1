"""y = W x for a single row of activations: streams the packed weights once, in the order in which they lie."""

from __future__ import annotations

from xamc.compiler.artifact.panels import PANEL
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.weights import PackedWeight

_CHAINS = 8
"""Independent accumulators that hide the latency of the multiply-add (4 cycles, two per cycle)."""
_UNROLL = 32
"""K values per iteration of the inner loop."""
SERIAL_BYTES = 48 * 1024
"""Below this, waking the other threads costs more than they save."""


def emit_gemv(weight: PackedWeight, x: E.Buffer, bias: E.Buffer | None, residual: E.Buffer | None, y: E.Buffer) -> None:
    """Emits the body of a GEMV; x [1, K], bias [N], residual and y [1, N].

    For integer weights, sum_k (q_k - z) s x_k = s (sum_k q_k x_k - z sum_k x_k) per group, so that the zero point and
    the scale are applied once per group. Integers stay at their bit position p in the 32-bit word they are stored in
    and the activations are multiplied by 2^-p beforehand, which is exact.
    """
    gemv = _Gemv(weight)
    vectors, sums = gemv.prepare(x)
    loop = E.serial if weight.layout.nbytes < SERIAL_BYTES else E.parallel
    with loop(weight.layout.panels) as panel:
        totals = gemv.panel(panel, vectors, sums)
        for total, row in zip(totals, weight.panel_rows()):
            finish_row(weight, panel, row, total, bias, residual, y)


class _Gemv:
    def __init__(self, weight: PackedWeight) -> None:
        self.weight, self.isa = weight, weight.isa
        self.vectors = PANEL // weight.isa.lanes
        self.sets = max(1, _CHAINS // self.vectors)
        self.step = weight.format.k_step
        self.steps = -(-weight.k // self.step)

    def prepare(self, x: E.Buffer) -> tuple[E.Buffer, E.Buffer | None]:
        """The activations as the inner loop wants them [1, K padded], and their sum per group."""
        weight, k = self.weight, self.weight.k
        if not weight.format.quantized:
            if k % self.step == 0:
                return x, None
            padded = E.scratch((1, self.steps * self.step))
            E.lanewise(k, self.isa, lambda i, lanes: E.store(padded, [0, i], E.load(x, [0, i], lanes), lanes))
            for i in range(k, self.steps * self.step):
                E.store(padded, [0, i], E.f32(0))
            return padded, None
        padded = self.steps * self.step
        scaled, sums = E.scratch((1, padded)), E.scratch((weight.format.groups(k),))
        exponents = [weight.in_place(E.const(0, 1, "uint32"), offset, 1)[1] for offset in range(self.step)]
        # The factors repeat every `step` elements; a multiple of the lanes makes them loadable at any vector.
        period = max(self.step, self.isa.lanes)
        factors = E.scratch((period,))
        for i in range(period):
            E.store(factors, [i], E.f32(2.0 ** -exponents[i % self.step]))
        for i in range(k, padded):
            E.store(scaled, [0, i], E.f32(0))
        with E.serial(weight.format.groups(k)) as group:
            first = E.let(group * weight.group)
            total = E.Register(self.isa.lanes, initial=E.const(0, self.isa.lanes))
            rest = E.Register(1, initial=E.f32(0))

            def scale(i: E.Expr, lanes: int) -> None:
                value = E.let(E.load(x, [0, first + i], lanes))
                register = total if lanes > 1 else rest
                register.set(register.get() + value)
                E.store(scaled, [0, first + i], value * E.load(factors, [i % period], lanes), lanes)

            E.lanewise(weight.group, self.isa, scale)
            E.store(sums, [group], E.reduce(total.get(), self.isa.lanes, E.add) + rest.get())
        return scaled, sums

    def panel(self, panel: E.Expr, x: E.Buffer, sums: E.Buffer | None) -> list[E.Register]:
        """Accumulates one panel; a register per vector of rows."""
        lanes = self.isa.lanes
        sets = [[E.Register(lanes) for _ in range(self.vectors)] for _ in range(self.sets)]
        for registers in sets:
            for register in registers:
                register.zero()
        if sums is None:
            self.run(panel, x, 0, self.steps, sets)
            return self.merge(sets)
        totals = [E.Register(lanes, initial=E.const(0, lanes)) for _ in range(self.vectors)]
        steps = -(-self.weight.group // self.step)
        with E.serial(self.weight.format.groups(self.weight.k)) as group:
            for registers in sets:
                for register in registers:
                    register.zero()
            self.run(panel, x, group * steps, steps, sets)
            total = E.let(E.load(sums, [group]))
            for partial, result, row in zip(self.merge(sets), totals, self.weight.panel_rows()):
                zero = self.weight.zero(panel, group, row, lanes)
                centred = E.fma(zero, E.splat(-total, lanes), partial.get(), lanes)
                scale = self.weight.scale(panel, group, row, lanes)
                result.set(E.fma(centred, scale, result.get(), lanes))
        return totals

    def run(self, panel: E.Expr, x: E.Buffer, first: E.Expr, steps: int, sets: list[list[E.Register]]) -> None:
        """Adds K steps [first, first + steps)."""
        software = self.weight.format.kind == "float16" and not self.isa.has_f16c
        unroll = 2 if software else _UNROLL // self.step  # a conversion in software is long
        whole = steps // unroll
        if whole:
            with E.serial(whole) as block:
                for i in range(unroll):
                    self.add(panel, x, E.let(first + block * unroll + i), i, sets)
        for i in range(whole * unroll, steps):
            self.add(panel, x, E.let(first + i), i, sets)

    def add(self, panel: E.Expr, x: E.Buffer, step: E.Expr, turn: int, sets: list[list[E.Register]]) -> None:
        lanes = self.isa.lanes
        self.weight.prefetch(panel, step)
        words = [E.let(self.weight.word(panel, step, row, lanes)) for row in self.weight.panel_rows()]
        for offset in range(self.step):
            factor = E.let(E.splat(E.load(x, [0, step * self.step + offset]), lanes))
            registers = sets[(turn * self.step + offset) % self.sets]
            for word, register in zip(words, registers):
                value, _ = self.weight.in_place(word, offset, lanes)
                register.set(E.fma(value, factor, register.get(), lanes))

    @staticmethod
    def merge(sets: list[list[E.Register]]) -> list[E.Register]:
        for other in sets[1:]:
            for register, partial in zip(sets[0], other):
                register.set(register.get() + partial.get())
        return sets[0]


def finish_row(
    weight: PackedWeight,
    panel: E.Expr,
    row: int,
    total: E.Register,
    bias: E.Buffer | None,
    residual: E.Buffer | None,
    y: E.Buffer,
) -> None:
    """Adds bias and residual and stores; the rows that pad the last panel are left out."""
    lanes = weight.isa.lanes
    first = panel * PANEL + row

    def whole() -> None:
        value = total.get()
        if bias is not None:
            value = value + E.load(bias, [first], lanes)
        if residual is not None:
            value = value + E.load(residual, [0, first], lanes)
        E.store(y, [0, first], value, lanes)

    def tail() -> None:
        with E.serial(E.maximum(weight.n - first, 0)) as lane:
            value = E.load(total.buffer, [lane])
            if bias is not None:
                value = value + E.load(bias, [first + lane])
            if residual is not None:
                value = value + E.load(residual, [0, first + lane])
            E.store(y, [0, first + lane], value)

    if weight.n % PANEL == 0:
        whole()
    else:
        E.when(first + lanes <= weight.n, whole, tail)
