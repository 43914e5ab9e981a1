"""Rows of activations to integers, in groups along K: q = round(x levels / max |x|), x ~ q * scale."""

from __future__ import annotations

from collections.abc import Callable

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.integer_dot import IntegerDot

_ROUND = 12582912.0
"""1.5 * 2^23: adding it rounds to the nearest even integer, left in the low bits of the mantissa."""

Store = Callable[[E.Expr, E.Expr, int], None]
"""Takes an offset in a row, quantized values and their number."""


def quantize_group(
    dot: IntegerDot, x: E.Buffer, row: E.Expr, first: E.Expr, extent: int, store: Store
) -> tuple[E.Expr, E.Expr]:
    """Quantizes elements [first, first + extent) of a row of x float32 [M, K].

    Values are handed to `store` in the order in which the arithmetic wants them (`IntegerDot.order`), padded with zeros
    to whole words.

    Returns:
        scale float32 = max |x| / levels, and the sum of the quantized values as float32 (exact). A NaN or infinity
        makes the scale NaN or infinite, so that it reaches the result.
    """
    lanes = dot.isa.lanes
    width = max(lanes, dot.words)
    # as integers, magnitudes are ordered like their values, with NaN on top
    top = E.Register(lanes, "int32")
    top.zero()
    rest = E.Register(1, "int32", E.const(0, 1, "int32"))

    def magnitude(c: E.Expr, count: int) -> None:
        bits = E.bits(E.load(x, [row, first + c], count), "int32", count) & E.const(0x7FFFFFFF, count, "int32")
        register = top if count > 1 else rest
        register.set(E.maximum(register.get(), bits))

    E.lanewise(extent, dot.isa, magnitude, unroll=8)
    largest = E.reduce(top.get(), lanes, E.maximum)
    amax = E.let(E.bits(E.maximum(largest, rest.get()), "float32", 1))
    inverse = E.let(E.select(amax > E.f32(0), E.f32(dot.levels) / amax, E.f32(0)))
    total = E.Register(width, "int32")
    total.zero()

    def quantize(c: E.Expr, value: E.Expr) -> None:
        scaled = E.let(value * E.splat(inverse, width) + E.const(_ROUND, width))
        codes = E.let(E.bits(scaled, "int32", width) - E.const(0x4B400000, width, "int32"))
        total.set(total.get() + codes)
        narrow = E.cast(codes, dot.activations, width)
        if dot.order != tuple(range(dot.words)):
            lanes_of = [word + k for word in range(0, width, dot.words) for k in dot.order]
            narrow = E.shuffle(E.let(narrow), lanes_of)
        store(first + c, narrow, width)

    whole = extent // width
    for i in range(whole):
        quantize(E.i32(i * width), E.load(x, [row, first + i * width], width))
    if extent % width:
        tail = E.scratch((width,))
        for i in range(width):
            inside = i < extent % width
            E.store(tail, [i], E.load(x, [row, first + whole * width + i]) if inside else E.f32(0))
        quantize(E.i32(whole * width), E.load(tail, [0], width))
    count = E.cast(E.reduce(total.get(), width, E.add), "float32", 1)
    return E.let(amax * E.f32(1.0 / dot.levels)), E.let(count)


class QuantizedRow:
    """Scratch memory for a row of activations as integers, which a kernel fills.

    Attributes:
        codes: [K padded to whole groups].
        scales: float32 [groups].
        counts: float32 [groups], minus the sum of a group's codes.
    """

    def __init__(self, dot: IntegerDot, k: int) -> None:
        """Takes the memory for `k` elements."""
        self._dot = dot
        self.whole, self.rest = divmod(k, dot.group)
        groups = self.whole + (self.rest > 0)
        self.codes = E.scratch((groups * dot.group,), dot.activations)
        self.scales, self.counts = E.scratch((groups,)), E.scratch((groups,))

    def fill(self, x: E.Buffer) -> None:
        """Rounds x float32 [1, K] to integers."""

        def one(group: E.Expr, extent: int) -> None:
            scale, count = quantize_group(
                self._dot, x, E.i32(0), E.let(group * self._dot.group), extent,
                lambda c, codes, lanes: E.store(self.codes, [c], codes, lanes),
            )  # fmt: skip
            E.store(self.scales, [group], scale)
            E.store(self.counts, [group], E.f32(0) - count)

        with E.serial(self.whole) as group:
            one(group, self._dot.group)
        if self.rest:
            one(E.i32(self.whole), self.rest)
