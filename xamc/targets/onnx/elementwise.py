"""Operators on single elements that TVM writes as loops which are wrong for NaN, for signed zeros, or near zero.

TVM's maximum is `a > b ? a : b`, which loses a NaN on its left; a model that has diverged would look healthy. Here NaN
goes through, as in NumPy, in ONNX's reference and in ONNX Runtime, and -0 stays what it is under a bound of 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import ir, te, tirx, topi

Legalize = Callable[[Any, Any], Any]

# tanh by its continued fraction x / (1 + x^2 / (3 + x^2 / (5 + ...))), seven levels of it as one quotient: within
# 1e-15 of tanh up to 1/2
_TANH_ABOVE, _TANH_BELOW = (1.0, 378.0, 17325.0, 135135.0), (28.0, 3150.0, 62370.0, 135135.0)
_ATANH_TERMS = 8


def larger(left: Any, right: Any) -> Any:
    """The larger of two numbers; NaN if one of them is."""
    chosen = tirx.Select(left > right, left, right)  # right where one of them is NaN
    return tirx.Select(tirx.isnan(left), left, chosen) if _is_float(left) else chosen


def smaller(left: Any, right: Any) -> Any:
    """The smaller of two numbers; NaN if one of them is."""
    chosen = tirx.Select(left < right, left, right)
    return tirx.Select(tirx.isnan(left), left, chosen) if _is_float(left) else chosen


def _is_float(value: Any) -> bool:
    return str(value.ty.dtype if hasattr(value.ty, "dtype") else value.ty).startswith("float")


def elementwise() -> dict[str, Legalize]:
    """Relax operator → what writes a call of it as loops, for `relax.transform.LegalizeOps`."""
    unary = {
        "relax.nn.relu": (_relu, "relu"),
        "relax.sign": (_sign, "sign"),
        "relax.tanh": (_tanh, "tanh"),
        "relax.atanh": (_atanh, "atanh"),
    }
    found = {name: _of_floats(name, _unary(function, hint)) for name, (function, hint) in unary.items()}
    found["relax.maximum"] = _of_floats("relax.maximum", _binary(larger, "maximum"))
    found["relax.minimum"] = _of_floats("relax.minimum", _binary(smaller, "minimum"))
    found["relax.clip"] = _of_floats("relax.clip", _clip)
    return found


def _of_floats(name: str, ours: Legalize) -> Legalize:
    theirs = ir.Op.get(name).get_attr("FLegalize")

    def either(builder: Any, call: Any) -> Any:
        return (ours if str(call.args[0].ty.dtype).startswith("float") else theirs)(builder, call)

    return either


def _unary(function: Callable[[Any], Any], hint: str) -> Legalize:
    def compute(x: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda *at: function(x(*at)), name=hint)

    return lambda builder, call: builder.call_te(compute, call.args[0], primfunc_name_hint=hint)


def _binary(function: Callable[[Any, Any], Any], hint: str) -> Legalize:
    def write(builder: Any, call: Any) -> Any:
        shape = list(call.ty.shape)

        def compute(a: te.Tensor, b: te.Tensor) -> te.Tensor:
            left, right = topi.broadcast_to(a, shape), topi.broadcast_to(b, shape)
            return te.compute(shape, lambda *at: function(left(*at), right(*at)), name=hint)

        return builder.call_te(compute, *call.args, primfunc_name_hint=hint)

    return write


def _relu(x: Any) -> Any:
    zero = tirx.const(0, x.ty)
    return tirx.Select(zero > x, zero, x)


def _sign(x: Any) -> Any:
    zero, one = tirx.const(0, x.ty), tirx.const(1, x.ty)
    of_none = tirx.Select(tirx.isnan(x), x, zero)
    return tirx.Select(x > zero, one, tirx.Select(x < zero, -one, of_none))


def _clip(builder: Any, call: Any) -> Any:
    """Between two numbers; a bound is taken where the element is beyond it, and NaN is beyond none."""

    def compute(x: te.Tensor) -> te.Tensor:
        low, high = (tirx.const(float(bound.value), x.dtype) for bound in call.args[1:])

        def element(*at: Any) -> Any:
            value = x(*at)
            above = tirx.Select(low > value, low, value)
            return tirx.Select(high < above, high, above)

        return te.compute(x.shape, element, name="clip")

    return builder.call_te(compute, call.args[0], primfunc_name_hint="clip")


def _polynomial(coefficients: tuple[float, ...], x: Any) -> Any:
    """Of falling powers."""
    total = tirx.const(coefficients[0], x.ty)
    for coefficient in coefficients[1:]:
        total = total * x + tirx.const(coefficient, x.ty)
    return total


def _tanh(x: Any) -> Any:
    """Near zero a quotient of polynomials, which keeps small ones and their signs; elsewhere 1 - 2 / (e^2|x| + 1)."""
    half, one, two = (tirx.const(number, x.ty) for number in (0.5, 1, 2))
    square = x * x
    near = x * _polynomial(_TANH_ABOVE, square) / _polynomial(_TANH_BELOW, square)
    size = tirx.abs(x)
    far = one - two / (tirx.exp(size * two) + one)
    return tirx.Select(size < half, near, tirx.Select(x < tirx.const(0, x.ty), -far, far))


def _atanh(x: Any) -> Any:
    """x + x^3/3 + x^5/5 + ... below 1/4, where half the logarithm of (1 + x) / (1 - x) would lose digits."""
    one, half = tirx.const(1, x.ty), tirx.const(0.5, x.ty)
    square = x * x
    terms = 2 * _ATANH_TERMS if str(x.ty) == "float64" else _ATANH_TERMS
    near = x * _polynomial(tuple(1 / divisor for divisor in range(2 * terms - 1, 0, -2)), square)
    far = half * tirx.log((one + x) / (one - x))
    return tirx.Select(tirx.abs(x) < tirx.const(0.25, x.ty), near, far)
