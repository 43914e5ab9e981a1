"""y = W x for a single row of activations, quantized to int8: streams the packed weights once."""

from __future__ import annotations

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.gemv import SERIAL_BYTES, finish_row
from xamc.targets.kernels.integer_dot import IntegerDot
from xamc.targets.kernels.quantize_activations import quantize_group
from xamc.targets.kernels.weights import PackedWeight


def emit_integer_gemv(
    weight: PackedWeight, x: E.Buffer, bias: E.Buffer | None, residual: E.Buffer | None, y: E.Buffer
) -> None:
    """Emits the body of a GEMV; x [1, K], bias [N], residual and y [1, N].

    With q_k the codes, z and s zero point and scale of the weights, a_k and t codes and scale of the activations,
    sum_k (q_k - z) s a_k t = (sum_k q_k a_k - z sum_k a_k) s t per group; both sums are integers.
    """
    gemv = _IntegerGemv(weight)
    gemv.quantize(x)
    loop = E.serial if weight.layout.nbytes < SERIAL_BYTES else E.parallel
    with loop(weight.layout.panels) as panel:
        totals = gemv.panel(panel)
        for total, row in zip(totals, weight.panel_rows()):
            finish_row(weight, panel, row, total, bias, residual, y)


_STEPS = 4
"""Weight words per turn of the inner loop: 512 bytes of weights, so that loads far ahead fit the reorder buffer."""


class _IntegerGemv:
    def __init__(self, weight: PackedWeight) -> None:
        self.weight, self.isa = weight, weight.isa
        self.dot = IntegerDot.of(weight.format, weight.isa)
        self.whole, self.rest = divmod(weight.k, self.dot.group)
        groups = self.whole + (self.rest > 0)
        self.codes = E.scratch((groups * self.dot.group,), self.dot.activations)
        self.scales, self.counts = E.scratch((groups,)), E.scratch((groups,))

    def quantize(self, x: E.Buffer) -> None:
        def one(group: E.Expr, extent: int) -> None:
            scale, count = quantize_group(
                self.dot, x, 0, E.let(group * self.dot.group), extent,
                lambda c, codes, lanes: E.store(self.codes, [c], codes, lanes),
            )  # fmt: skip
            E.store(self.scales, [group], scale)
            E.store(self.counts, [group], count)

        with E.serial(self.whole) as group:
            one(group, self.dot.group)
        if self.rest:
            one(E.i32(self.whole), self.rest)

    def panel(self, panel: E.Expr) -> list[E.Register]:
        """Accumulates one panel; a register per vector of rows."""
        lanes = self.isa.lanes
        totals = [E.Register(lanes, initial=E.const(0, lanes)) for _ in self.weight.panel_rows()]
        with E.serial(self.whole) as group:
            self.group(panel, group, self.dot.group, totals)
        if self.rest:
            self.group(panel, E.i32(self.whole), self.rest, totals)
        return totals

    def group(self, panel: E.Expr, group: E.Expr, extent: int, totals: list[E.Register]) -> None:
        """Adds `extent` K of a group of activations."""
        weight, dot, lanes = self.weight, self.dot, self.isa.lanes
        sets = [[dot.sums() for _ in range(dot.units)] for _ in totals]
        for registers in sets:
            for register in registers:
                register.zero()
        first = E.let(group * (dot.group // dot.words))
        steps = -(-extent // dot.words)
        whole = steps // _STEPS
        with E.serial(whole) as block:
            for i in range(_STEPS):
                self.step(panel, E.let(first + block * _STEPS + i), sets)
        for step in range(whole * _STEPS, steps):
            self.step(panel, E.let(first + step), sets)
        scale, count = E.let(E.load(self.scales, [group])), E.let(E.load(self.counts, [group]))
        weight_group = dot.weight_group(group)
        for registers, total, row in zip(sets, totals, weight.panel_rows()):
            zero = weight.zero(panel, weight_group, row, lanes)
            centred = E.fma(zero, E.splat(E.f32(0) - count, lanes), dot.total(registers), lanes)
            factor = weight.scale(panel, weight_group, row, lanes) * E.splat(scale, lanes)
            total.set(E.fma(centred, factor, total.get(), lanes))

    def step(self, panel: E.Expr, word: E.Expr, sets: list[list[E.Register]]) -> None:
        """Adds one weight word of every row."""
        weight, dot, lanes = self.weight, self.dot, self.isa.lanes
        weight.prefetch(panel, word)
        units = [dot.activation(self.codes, [word * dot.words + unit * dot.unit]) for unit in range(dot.units)]
        for registers, row in zip(sets, weight.panel_rows()):
            operands = dot.operands(E.let(weight.word(panel, word, row, lanes)))
            for register, operand, unit in zip(registers, operands, units):
                dot.multiply_add(operand, unit, register)
