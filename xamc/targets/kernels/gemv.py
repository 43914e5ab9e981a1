"""Y = X W^T for few rows of activations: streams the packed weights once, in the order in which they lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from xamc.compiler.artifact.panels import PANEL
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.weights import PackedWeight

Registers = list[E.Register]

_CHAINS = 8
"""Independent accumulators that hide the latency of the multiply-add (4 cycles, two per cycle)."""
_UNROLL = 32
"""K values per iteration of the inner loop."""
SERIAL_BYTES = 48 * 1024
"""Below this, waking the other threads costs more than they save."""


@contextmanager
def panel_columns(weight: PackedWeight, rows: int) -> Iterator[list[E.Expr]]:
    """A loop over a panel's vectors: the first columns of as many as have registers for a sum per row and vector."""
    lanes = weight.isa.lanes
    vectors = PANEL // lanes
    at_once = min(vectors, max(1, weight.isa.registers // 2 // rows))
    if at_once == vectors:
        yield [E.i32(v * lanes) for v in range(vectors)]
        return
    with E.serial(vectors // at_once) as part:
        yield [E.let(part * (at_once * lanes) + v * lanes) for v in range(at_once)]


class RowProducts(Protocol):
    """The arithmetic of few rows of activations with panels of a weight."""

    def take(self, x: E.Buffer) -> None:
        """Prepares the rows of x [M, K]; those beyond M are copies of its last one."""
        ...

    def panel(self, panel: E.Expr, columns: list[E.Expr]) -> list[Registers]:
        """The products with vectors of one panel; registers [row][vector]."""
        ...


def emit_gemv(
    weight: PackedWeight,
    products: RowProducts,
    x: E.Buffer,
    bias: E.Buffer | None,
    residual: E.Buffer | None,
    y: E.Buffer,
    rows: int = 1,
    *,
    small_too: bool = False,
) -> None:
    """Emits the body of a GEMV; x [M, K], bias [N], residual and y [M, N], with M at most `rows`.

    Weights below `SERIAL_BYTES` stay on one thread, unless `small_too`: where the other threads are awake anyway.
    """
    products.take(x)
    loop = E.serial if weight.layout.nbytes < SERIAL_BYTES and not small_too else E.parallel
    with loop(weight.layout.panels) as panel, panel_columns(weight, rows) as columns:
        finish(weight, panel, columns, products.panel(panel, columns), bias, residual, y)


class FloatProducts:
    """Products in float32, see `RowProducts`.

    For integer weights, sum_k (q_k - z) s x_k = s (sum_k q_k x_k - z sum_k x_k) per group, so that the zero point and
    the scale are applied once per group. Integers stay at their bit position p in the 32-bit word they are stored in
    and the activations are multiplied by 2^-p beforehand, which is exact.
    """

    def __init__(self, weight: PackedWeight, rows: int = 1) -> None:
        self.weight, self.isa, self.rows = weight, weight.isa, rows
        self.sets = max(1, _CHAINS // (rows * (PANEL // weight.isa.lanes)))
        self.step = weight.format.k_step
        self.steps = -(-weight.k // self.step)

    def take(self, x: E.Buffer) -> None:
        """See `RowProducts`."""
        self.x, self.sums = self.prepare(x)

    def prepare(self, x: E.Buffer) -> tuple[E.Buffer, E.Buffer | None]:
        """The activations as the inner loop wants them [rows, K padded], and their sum per group [rows, groups].

        Rows that X doesn't have are copies of its last one.
        """
        weight, k = self.weight, self.weight.k
        if not weight.format.quantized and k % self.step == 0 and self.rows == 1:
            return x, None
        values = E.scratch((self.rows, self.steps * self.step))
        sums = E.scratch((self.rows, weight.format.groups(k))) if weight.format.quantized else None
        factors = self.factors() if weight.format.quantized else None
        for row in range(self.rows):
            source = row if row == 0 else E.let(E.minimum(x.shape[0] - 1, row))
            for i in range(k, self.steps * self.step):
                E.store(values, [row, i], E.f32(0))
            if sums is None:
                self.copy_row(x, source, values, row)
            else:
                self.scale_row(x, source, values, row, factors, sums)
        return values, sums

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

    def copy_row(self, x: E.Buffer, source: E.Expr, values: E.Buffer, row: int) -> None:
        """Copies a row of X."""
        E.lanewise(
            self.weight.k,
            self.isa,
            lambda i, lanes: E.store(values, [row, i], E.load(x, [source, i], lanes), lanes),
        )

    def scale_row(
        self, x: E.Buffer, source: E.Expr, values: E.Buffer, row: int, factors: E.Buffer, sums: E.Buffer
    ) -> None:
        """Copies a row of X, times its factors, and adds up its groups."""
        weight, lanes = self.weight, self.isa.lanes
        period = max(self.step, lanes)
        with E.serial(weight.format.groups(weight.k)) as group:
            first = E.let(group * weight.group)
            total = E.Register(lanes, initial=E.const(0, lanes))
            rest = E.Register(1, initial=E.f32(0))

            def scale(i: E.Expr, count: int) -> None:
                value = E.let(E.load(x, [source, first + i], count))
                register = total if count > 1 else rest
                register.set(register.get() + value)
                E.store(values, [row, first + i], value * E.load(factors, [i % period], count), count)

            E.lanewise(weight.group, self.isa, scale)
            E.store(sums, [row, group], E.reduce(total.get(), lanes, E.add) + rest.get())

    def panel(self, panel: E.Expr, columns: list[E.Expr]) -> list[Registers]:
        """See `RowProducts`."""
        lanes, x, sums = self.isa.lanes, self.x, self.sums
        sets = [[[E.Register(lanes) for _ in columns] for _ in range(self.rows)] for _ in range(self.sets)]

        def clear() -> None:
            for register in (register for rows in sets for row in rows for register in row):
                register.zero()

        if sums is None:
            clear()
            self.run(panel, x, 0, self.steps, columns, sets)
            return self.merge(sets)
        totals = [[E.Register(lanes, initial=E.const(0, lanes)) for _ in columns] for _ in range(self.rows)]
        steps = -(-self.weight.group // self.step)
        with E.serial(self.weight.format.groups(self.weight.k)) as group:
            clear()
            self.run(panel, x, group * steps, steps, columns, sets)
            zeros = [E.let(self.weight.zero(panel, group, column, lanes)) for column in columns]
            scales = [E.let(self.weight.scale(panel, group, column, lanes)) for column in columns]
            for row, partials in enumerate(self.merge(sets)):
                negative = E.let(E.splat(E.f32(0) - E.load(sums, [row, group]), lanes))
                for v, partial in enumerate(partials):
                    centered = E.fma(zeros[v], negative, partial.get(), lanes)
                    totals[row][v].set(E.fma(centered, scales[v], totals[row][v].get(), lanes))
        return totals

    def run(
        self, panel: E.Expr, x: E.Buffer, first: E.Expr, steps: int, columns: list[E.Expr], sets: list[list[Registers]]
    ) -> None:
        """Adds K steps [first, first + steps)."""
        software = self.weight.format.kind == "float16" and not self.isa.has_f16c
        # a conversion in software is long
        unroll = 2 if software else max(1, _UNROLL // self.step // self.rows)
        whole = steps // unroll
        if whole:
            with E.serial(whole) as block:
                for i in range(unroll):
                    self.add(panel, x, E.let(first + block * unroll + i), i, columns, sets)
        for i in range(whole * unroll, steps):
            self.add(panel, x, E.let(first + i), i, columns, sets)

    def add(
        self, panel: E.Expr, x: E.Buffer, step: E.Expr, turn: int, columns: list[E.Expr], sets: list[list[Registers]]
    ) -> None:
        lanes = self.isa.lanes
        self.weight.prefetch(panel, step)
        words = [E.let(self.weight.word(panel, step, column, lanes)) for column in columns]
        for offset in range(self.step):
            values = [E.let(self.weight.in_place(word, offset, lanes)[0]) for word in words]
            for row, registers in enumerate(sets[(turn * self.step + offset) % self.sets]):
                factor = E.let(E.splat(E.load(x, [row, step * self.step + offset]), lanes))
                for value, register in zip(values, registers):
                    register.set(E.fma(value, factor, register.get(), lanes))

    @staticmethod
    def merge(sets: list[list[Registers]]) -> list[Registers]:
        """The sums of all sets, in the first one."""
        for other in sets[1:]:
            for into, row in zip(sets[0], other):
                for register, partial in zip(into, row):
                    register.set(register.get() + partial.get())
        return sets[0]


def finish(
    weight: PackedWeight,
    panel: E.Expr,
    columns: list[E.Expr],
    totals: list[Registers],
    bias: E.Buffer | None,
    residual: E.Buffer | None,
    y: E.Buffer,
) -> None:
    """Adds bias and residual to sums [row][vector] and stores those that Y has a place for.

    Rows that pad the last panel are left out, and so are rows beyond Y's.
    """
    for row, vectors in enumerate(totals):

        def store(row: int = row, vectors: Registers = vectors) -> None:
            for column, total in zip(columns, vectors):
                finish_vector(weight, panel, column, row, total, bias, residual, y)

        if row == 0:
            store()
        else:
            E.when(y.shape[0] > row, store)


def finish_vector(
    weight: PackedWeight,
    panel: E.Expr,
    column: E.Expr,
    row: E.Expr | int,
    total: E.Register,
    bias: E.Buffer | None,
    residual: E.Buffer | None,
    y: E.Buffer,
) -> None:
    """Adds bias and residual to a vector of sums of one row and stores it, but for rows that pad the last panel."""
    lanes = weight.isa.lanes
    first = panel * PANEL + column

    def whole() -> None:
        value = total.get()
        if bias is not None:
            value = value + E.load(bias, [first], lanes)
        if residual is not None:
            value = value + E.load(residual, [row, first], lanes)
        E.store(y, [row, first], value, lanes)

    def tail() -> None:
        with E.serial(E.maximum(weight.n - first, 0)) as lane:
            value = E.load(total.buffer, [lane])
            if bias is not None:
                value = value + E.load(bias, [first + lane])
            if residual is not None:
                value = value + E.load(residual, [row, first + lane])
            E.store(y, [row, first + lane], value)

    if weight.n % PANEL == 0:
        whole()
    else:
        E.when(first + lanes <= weight.n, whole, tail)
