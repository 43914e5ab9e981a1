"""LayerNorm (Ba, Kiros and Hinton, 2016): y = (x - mean) / sqrt(variance + eps) * w + b, over the last axis."""

from __future__ import annotations

from collections.abc import Callable

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import Isa

_PARALLEL = 8192
"""Elements from which on rows are shared among threads."""


def layer_norm(name: str, width: int, eps: float, isa: Isa) -> E.PrimFunc:
    """LayerNorm of rows; the variance is that of the differences from the mean, in a second pass.

    Args:
        name: of the PrimFunc.
        width: elements H of a row.
        eps: added to the variance.
        isa: the level to generate for.

    Returns:
        A PrimFunc (x [M, H], w [H], b [H], y [M, H]), all float32, for any M.
    """

    def body() -> None:
        m = E.dynamic("m")
        x, w = E.parameter("x", (m, width), "float32"), E.parameter("w", (width,), "float32")
        b, y = E.parameter("b", (width,), "float32"), E.parameter("y", (m, width), "float32")

        def row(i: E.Expr) -> None:
            mean = E.let(_sum(width, isa, lambda c, lanes: E.load(x, [i, c], lanes)) * E.f32(1.0 / width))

            def square(c: E.Expr, lanes: int) -> E.Expr:
                difference = E.let(E.load(x, [i, c], lanes) - E.splat(mean, lanes))
                return difference * difference

            variance = E.let(_sum(width, isa, square) * E.f32(1.0 / width))
            factor = E.let(E.f32(1.0) / E.sqrt(variance + E.f32(eps)))

            def write(c: E.Expr, lanes: int) -> None:
                value = (E.load(x, [i, c], lanes) - E.splat(mean, lanes)) * E.splat(factor, lanes)
                E.store(y, [i, c], value * E.load(w, [c], lanes) + E.load(b, [c], lanes), lanes)

            E.lanewise(width, isa, write)

        E.rows(m, row, threshold=max(2, _PARALLEL // width))

    return E.build(name, body)


def _sum(width: int, isa: Isa, read: Callable[[E.Expr, int], E.Expr]) -> E.Expr:
    """The sum of what `read(offset, lanes)` yields, in four chains."""
    lanes, chains = isa.lanes, 4
    partial = [E.Register(lanes, initial=E.const(0, lanes)) for _ in range(chains)]
    rest = E.Register(1, initial=E.f32(0))

    def add(register: E.Register, offset: E.Expr, count: int) -> None:
        register.set(register.get() + read(offset, count))

    blocks = width // (lanes * chains)
    with E.serial(blocks) as block:
        for j, register in enumerate(partial):
            add(register, E.let(block * (lanes * chains) + j * lanes), lanes)
    for j in range(blocks * chains, width // lanes):
        add(partial[j % chains], E.i32(j * lanes), lanes)
    if width % lanes:
        with E.serial(width // lanes * lanes, width) as c:
            add(rest, c, 1)
    total = partial[0].get()
    for register in partial[1:]:
        total = total + register.get()
    return E.reduce(total, lanes, E.add) + rest.get()
