"""Functions of single elements, on vectors: erf, gelu, sigmoid, silu."""

from __future__ import annotations

from collections.abc import Callable

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import Isa

_CHUNK = 4096
"""Elements of a task."""

# The rational approximation of Eigen's Erf (x P(x^2) / Q(x^2) on [-4, 4], beyond which erf is 1 in float32).
_NUMERATOR = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_DENOMINATOR = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)


def _erf(x: E.Expr, lanes: int) -> E.Expr:
    x = E.let(E.maximum(E.let(E.minimum(x, E.const(4.0, lanes))), E.const(-4.0, lanes)))
    square = E.let(x * x)
    parts = []
    for coefficients in (_NUMERATOR, _DENOMINATOR):
        value = E.const(coefficients[0], lanes)
        for coefficient in coefficients[1:]:
            value = E.let(E.fma(value, square, E.const(coefficient, lanes), lanes))
        parts.append(value)
    return x * parts[0] / parts[1]


def _gelu(x: E.Expr, lanes: int) -> E.Expr:
    inner = _erf(E.let(x * E.const(0.7071067811865476, lanes)), lanes)
    return x * E.const(0.5, lanes) * (inner + E.const(1.0, lanes))


def _sigmoid(x: E.Expr, lanes: int) -> E.Expr:
    """Zero from -88 on: the exponential ends there, and -inf, or -1e38 times what is left, would not."""
    value = E.const(1.0, lanes) / (E.exp(E.let(E.const(0.0, lanes) - x), lanes) + E.const(1.0, lanes))
    return E.select(x < E.const(-88.0, lanes), E.const(0.0, lanes), value)


def _silu(x: E.Expr, lanes: int) -> E.Expr:
    return x * _sigmoid(x, lanes)


FUNCTIONS: dict[str, Callable[[E.Expr, int], E.Expr]] = {
    "erf": _erf,
    "gelu": _gelu,
    "sigmoid": _sigmoid,
    "silu": _silu,
}


def unary(name: str, function: str, isa: Isa) -> E.PrimFunc:
    """y = f(x) for each element.

    Args:
        name: of the PrimFunc.
        function: a key of `FUNCTIONS`; NaN stays NaN.
        isa: the level to generate for.

    Returns:
        A PrimFunc (x [N], y [N]), float32, for any N.
    """

    def body() -> None:
        n = E.dynamic("n")
        x, y = E.parameter("x", (n,), "float32"), E.parameter("y", (n,), "float32")

        def apply(at: E.Expr, lanes: int) -> None:
            value = E.let(E.load(x, [at], lanes))
            E.store(y, [at], E.select(E.is_nan(value, lanes), value, FUNCTIONS[function](value, lanes)), lanes)

        def chunk(index: E.Expr) -> None:
            begin = E.let(index * _CHUNK)
            count = E.let(E.minimum(n - begin, _CHUNK))
            whole = E.let(count // isa.lanes)
            with E.serial(whole) as i:
                apply(E.let(begin + i * isa.lanes), isa.lanes)
            with E.serial(E.let(count - whole * isa.lanes)) as i:
                apply(E.let(begin + whole * isa.lanes + i), 1)

        E.rows((n + (_CHUNK - 1)) // _CHUNK, chunk)

    return E.build(name, body)
