"""Softmax over rows: y = exp(x - max x) / sum exp(x - max x), in float32 inside."""

from __future__ import annotations

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.strided import PARALLEL_ELEMENTS

_LOWEST = -3.4028234663852886e38


def softmax(name: str, rows: int, width: int, dtype: str, isa: Isa) -> E.PrimFunc:
    """Softmax of each row.

    Args:
        name: of the PrimFunc.
        rows: number of rows R.
        width: elements of a row.
        dtype: float32 or float16, of x and y; sums are float32, and y is rounded once.
        isa: the level to generate for.

    Returns:
        A PrimFunc (x [R * width], y [R * width]). Elements of minus infinity become 0; a row of nothing else is NaN,
        as is one with an infinity or a NaN in it.
    """

    def body() -> None:
        x = E.parameter("x", (rows * width,), dtype)
        y = E.parameter("y", (rows * width,), dtype)
        loop = E.parallel if rows * width >= PARALLEL_ELEMENTS else E.serial
        with loop(rows) as row:
            _row(x, y, E.let(E.i64(row) * width), width, isa)

    return E.build(name, body)


def _row(x: E.Buffer, y: E.Buffer, first: E.Expr, width: int, isa: Isa) -> None:
    lanes = isa.lanes
    values = E.scratch((width,))
    tops = E.Register(lanes, initial=E.const(_LOWEST, lanes))
    top = E.Register(1, initial=E.f32(_LOWEST))

    def widen(c: E.Expr, count: int) -> None:
        value = E.let(E.load_float(x, [first + c], count, isa))
        register = tops if count > 1 else top
        register.set(E.maximum(register.get(), value))
        E.store(values, [c], value, count)

    E.lanewise(width, isa, widen)
    largest = E.let(E.maximum(top.get(), E.reduce(tops.get(), lanes, E.maximum)))
    sums = E.Register(lanes, initial=E.const(0, lanes))
    rest = E.Register(1, initial=E.f32(0))

    def raise_to(c: E.Expr, count: int) -> None:
        below = E.let(E.load(values, [c], count) - E.splat(largest, count))
        # inf - inf is NaN, which the bounds of exp would make a number of
        weight = E.let(E.select(below <= E.const(0, count), E.exp(below, count), below))
        register = sums if count > 1 else rest
        register.set(register.get() + weight)
        E.store(values, [c], weight, count)

    E.lanewise(width, isa, raise_to)
    inverse = E.let(E.f32(1) / (E.reduce(sums.get(), lanes, E.add) + rest.get()))

    def divide(c: E.Expr, count: int) -> None:
        E.store_float(y, [first + c], E.load(values, [c], count) * E.splat(inverse, count), count, isa)

    E.lanewise(width, isa, divide)
