"""2^x for x <= 0, what a softmax with its maximum taken off needs; cheaper than a general exponential.

The exponents of `attention_prefill.py` are multiples of 1 / ln 2 from the start, so that the integer part is taken off
exactly by one subtraction, and nothing overflows.
"""

from __future__ import annotations

from xamc.targets.kernels import emit as E

_ROUND = 12582912.0
"""1.5 * 2^23: adding it rounds to the nearest integer, left in the low bits of the mantissa."""
_LEAST = -125.0
"""Below it the result is 0: a number without a full mantissa would cost more than it is worth."""
_COEFFICIENTS = (1.326472726e-3, 9.671512700e-3, 5.550733744e-2, 2.402224208e-1, 6.931469776e-1)
"""Of r^5 to r: the polynomial 1 + c1 r + ... whose largest relative error on [-1/2, 1/2] is least, 9.1e-8; found by
least squares whose weights follow the error (Lawson, 1961)."""


def exp2_of_negative(value: E.Expr, lanes: int) -> E.Expr:
    """2**value in float32 for value <= 0: relative error below 2e-7 from -125 on, 0 below; 1 for 0, NaN for NaN."""
    value = E.let(value)
    x = E.let(E.at_least(value, E.const(_LEAST, lanes)))
    shifted = E.let(x + E.const(_ROUND, lanes))
    r = E.let(x - (shifted - E.const(_ROUND, lanes)))
    p = E.const(_COEFFICIENTS[0], lanes)
    for coefficient in (*_COEFFICIENTS[1:], 1.0):
        p = E.fma(p, r, E.const(coefficient, lanes), lanes)
    exponent = E.bits(shifted, "int32", lanes) << E.const(23, lanes, "int32")
    result = E.bits(E.bits(E.let(p), "int32", lanes) + exponent, "float32", lanes)
    return E.let(E.select(value < E.const(_LEAST, lanes), E.const(0.0, lanes), result))
