"""SwiGLU's gate (Shazeer, 2020): y = silu(gate) * up, with silu(g) = g / (1 + exp(-g))."""

from __future__ import annotations

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import Isa


def silu_mul(intermediate: int, isa: Isa, *, fused: bool) -> E.PrimFunc:
    """The gated activation of a feed-forward layer.

    Args:
        intermediate: width I of the feed-forward layer.
        isa: the level to generate for.
        fused: whether gate and up are the halves of one row.

    Returns:
        A PrimFunc (gu float32 [M, 2I], y float32 [M, I]) if `fused`, else (gate [M, I], up [M, I], y [M, I]).
    """

    def body() -> None:
        m = E.dynamic("m")
        if fused:
            gate = up = E.parameter("gu", (m, 2 * intermediate), "float32")
        else:
            gate = E.parameter("gate", (m, intermediate), "float32")
            up = E.parameter("up", (m, intermediate), "float32")
        y = E.parameter("y", (m, intermediate), "float32")
        shift = intermediate if fused else 0

        def row(i: E.Expr) -> None:
            def activate(c: E.Expr, lanes: int) -> None:
                g = E.let(E.load(gate, [i, c], lanes))
                E.store(y, [i, c], silu(g, lanes) * E.load(up, [i, shift + c], lanes), lanes)

            E.lanewise(intermediate, isa, activate)

        E.rows(m, row, threshold=max(2, 4096 // intermediate))

    return E.build(f"silu_mul_{intermediate}{'_fused' if fused else ''}", body)


def silu(g: E.Expr, lanes: int) -> E.Expr:
    """g / (1 + exp(-g)); `g` is evaluated twice."""
    return g / (E.const(1, lanes) + E.exp(E.let(E.const(0, lanes) - g), lanes))
