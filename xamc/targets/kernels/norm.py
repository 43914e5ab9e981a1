"""RMSNorm (Zhang and Sennrich, 2019): y = x / sqrt(mean(x^2) + eps) * w, over the last axis; sums in float32."""

from __future__ import annotations

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import Isa


def rms_norm(h: int, eps: float, isa: Isa, *, activations: str = "float32", weights: str = "float32") -> E.PrimFunc:
    """RMSNorm of rows.

    Args:
        h: elements of a row.
        eps: added to the mean square.
        isa: the level to generate for.
        activations: dtype of x and y; sums are float32 whatever it is, and y is rounded once.
        weights: dtype of w.

    Returns:
        A PrimFunc (x [M, h], w [h], y [M, h]). For norms of heads, pass x as [M * heads, D].
    """

    def body() -> None:
        m = E.dynamic("m")
        x = E.parameter("x", (m, h), activations)
        w = E.parameter("w", (h,), weights)
        y = E.parameter("y", (m, h), activations)

        def row(i: E.Expr) -> None:
            factor = inverse_rms(lambda c, lanes: E.load_float(x, [i, c], lanes, isa), h, eps, isa)
            scale_row(x, w, y, i, factor, h, isa)

        E.rows(m, row, threshold=_threshold(h))

    return E.build(f"rms_norm_{h}", body)


def add_rms_norm(h: int, eps: float, isa: Isa) -> E.PrimFunc:
    """Residual addition and RMSNorm in one pass over the rows.

    Returns:
        A PrimFunc (x float32 [M, h], residual float32 [M, h], w float32 [h], y float32 [M, h], sum_out float32
        [M, h]) with sum_out = x + residual and y = rms_norm(sum_out, w).
    """

    def body() -> None:
        m = E.dynamic("m")
        x = E.parameter("x", (m, h), "float32")
        residual = E.parameter("residual", (m, h), "float32")
        w = E.parameter("w", (h,), "float32")
        y = E.parameter("y", (m, h), "float32")
        total = E.parameter("sum_out", (m, h), "float32")

        def row(i: E.Expr) -> None:
            def add(c: E.Expr, lanes: int) -> E.Expr:
                value = E.let(E.load(x, [i, c], lanes) + E.load(residual, [i, c], lanes))
                E.store(total, [i, c], value, lanes)
                return value

            scale_row(total, w, y, i, inverse_rms(add, h, eps, isa), h, isa)

        E.rows(m, row, threshold=_threshold(h))

    return E.build(f"add_rms_norm_{h}", body)


def inverse_rms(read: E.LaneReader, h: int, eps: float, isa: Isa) -> E.Expr:
    """1 / sqrt(mean(x^2) + eps) of `h` elements, which `read(offset, lanes)` yields, each once."""
    lanes = isa.lanes
    chains = 4 if h // lanes >= 8 else 1
    partial = [E.Register(lanes, initial=E.const(0, lanes)) for _ in range(chains)]
    rest = E.Register(1, initial=E.f32(0))

    def accumulate(register: E.Register, offset: E.Expr, width: int) -> None:
        value = E.let(read(offset, width))
        register.set(E.fma(value, value, register.get(), width))

    blocks = h // (lanes * chains)
    with E.serial(blocks) as block:
        for j, register in enumerate(partial):
            accumulate(register, block * (lanes * chains) + j * lanes, lanes)
    done = blocks * chains
    for j in range(h // lanes - done):
        accumulate(partial[j], E.i32((done + j) * lanes), lanes)
    if h % lanes:
        with E.serial(h // lanes * lanes, h) as c:
            accumulate(rest, c, 1)
    total = partial[0].get()
    for register in partial[1:]:
        total = total + register.get()
    squares = E.reduce(total, lanes, E.add) + rest.get()
    return E.let(E.f32(1.0) / E.sqrt(squares * E.f32(1.0 / h) + E.f32(eps)))


def scale_row(x: E.Buffer, w: E.Buffer, y: E.Buffer, i: E.Expr, factor: E.Expr, h: int, isa: Isa) -> None:
    """y[i] = x[i] * factor * w."""

    def scale(c: E.Expr, lanes: int) -> None:
        value = E.load_float(x, [i, c], lanes, isa) * E.splat(factor, lanes) * E.load_float(w, [c], lanes, isa)
        E.store_float(y, [i, c], value, lanes, isa)

    E.lanewise(h, isa, scale)


def _threshold(h: int) -> int:
    """Rows from which on a norm is shared among threads: about 32 KiB of work."""
    return max(4, 8192 // h)
