"""`Resize` where dimensions vary: nearest and linear, one axis after the other; TVM's own takes sizes that are numbers.

Element i of O lies at this coordinate among the I elements before:

    asymmetric     i / s                      half_pixel     (i + 1/2) / s - 1/2
    align_corners  i (I - 1) / (O - 1)        with s = O / I, or the scale that is given
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from tvm import ir, relax, te, tirx
from tvm.relax.frontend.onnx import onnx_frontend

from xamc.targets.onnx.importer.shape_values import DimArithmetic, ShapeValue, as_shape_value

_MODES = ("nearest", "linear")
_COORDINATES = ("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners")
_ROUNDED: dict[str, Callable[[Any], Any]] = {
    "round_prefer_floor": lambda x: tirx.ceil(x - tirx.const(0.5, "float32")),
    "round_prefer_ceil": lambda x: tirx.floor(x + tirx.const(0.5, "float32")),
    "floor": tirx.floor,
    "ceil": tirx.ceil,
}


class _Resize(onnx_frontend.Resize):
    @classmethod
    def _impl_v18(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        x, scales, sizes = inputs[0], inputs[2], inputs[3]
        shape = as_shape_value(x.ty.shape)
        if scales is not None and isinstance(scales, ir.GenericConst) and scales.value.numpy().size == 0:
            scales = None  # older exporters leave it out so
        if len(inputs) < 3 or shape is None or (scales is None) == (sizes is None):
            return super()._impl_v18(bb, inputs, attr, params)
        given = shape.values.tolist()
        wanted = sizes.values.tolist() if isinstance(sizes, ShapeValue) else None
        known = all(isinstance(dim, int) for dim in (*given[2:], *(wanted or [])[2:]))
        if known:
            if wanted is not None:  # of the batch and the channels, which are as they were
                sizes = relax.const(np.array([1, 1, *wanted[2:]], np.int64), "int64")
            rest = [x, inputs[1], scales, sizes]
            return super()._impl_v18(bb, onnx_frontend.onnx_input(rest), attr, params)
        if wanted is None and isinstance(sizes, ir.GenericConst):
            wanted = sizes.value.numpy().tolist()
        return cls._varying(bb, x, given, wanted, scales, attr)

    @classmethod
    def _varying(cls, bb: Any, x: Any, given: list[Any], wanted: Any, scales: Any, attr: Any) -> Any:
        mode = attr.get("mode", b"nearest").decode()
        coordinates = attr.get("coordinate_transformation_mode", b"half_pixel").decode()
        if mode not in _MODES or coordinates not in _COORDINATES or attr.get("exclude_outside", 0):
            raise ValueError(f"it has mode {mode} with {coordinates}, over dimensions that vary")
        arithmetic: DimArithmetic = attr["xamc_arithmetic"]
        factors: list[Any] = [None] * len(given) if scales is None else scales.value.numpy().tolist()
        nearest = attr.get("nearest_mode", b"round_prefer_floor").decode()
        for axis in range(len(given)):
            target = wanted[axis] if wanted is not None else _scaled(arithmetic, given[axis], factors[axis])
            if arithmetic.proves_equal(target, given[axis]) and factors[axis] in (None, 1):
                continue
            compute = partial(
                _along,
                axis=axis,
                dim=target,
                scale=factors[axis],
                coordinates=coordinates,
                rounded=_ROUNDED[nearest] if mode == "nearest" else None,
            )
            x = bb.emit_te(compute, x, primfunc_name_hint=f"resize_{mode}")
        return x


def _scaled(arithmetic: DimArithmetic, dim: Any, scale: float) -> Any:
    """A dimension times a scale, rounded down: of a whole scale, or one over a whole number."""
    if isinstance(dim, int):
        return int(np.floor(np.float32(dim) * np.float32(scale)))
    if scale >= 1 and scale == int(scale):
        return arithmetic.simplified(dim * int(scale))
    divisor = round(1 / scale)
    if np.float32(1 / divisor) != np.float32(scale):
        raise ValueError(f"it scales a dimension that varies by {scale:g}, which is neither whole nor one over a whole")
    return arithmetic.divide(dim, divisor)


def _along(
    x: te.Tensor, axis: int, dim: Any, scale: float | None, coordinates: str, rounded: Callable[[Any], Any] | None
) -> te.Tensor:
    """Resizes one axis; linear without a rounding."""
    before = x.shape[axis]
    shape = [dim if other == axis else size for other, size in enumerate(x.shape)]
    number = partial(tirx.const, dtype="float32")

    def source(index: Any) -> Any:
        i, old, new = (tirx.Cast("float32", value) for value in (index, before, dim))
        if coordinates == "align_corners":
            return tirx.Select(new > number(1), i * (old - number(1)) / tirx.max(new - number(1), number(1)), number(0))
        factor = number(scale) if scale is not None else new / old
        if coordinates == "asymmetric":
            return i / factor
        at = (i + number(0.5)) / factor - number(0.5)
        return tirx.Select(new > number(1), at, number(0)) if coordinates == "pytorch_half_pixel" else at

    def inside(coordinate: Any) -> Any:
        last = tirx.Cast("int64", before) - tirx.const(1, "int64")
        return tirx.max(tirx.min(tirx.Cast("int64", coordinate), last), tirx.const(0, "int64"))

    def element(*at: Any) -> Any:
        def read(coordinate: Any) -> Any:
            return x(*(coordinate if other == axis else index for other, index in enumerate(at)))

        coordinate = source(at[axis])
        if rounded is not None:
            return read(inside(rounded(coordinate)))
        low = tirx.floor(coordinate)
        share = (coordinate - low).astype(x.dtype)
        return read(inside(low)) * (tirx.const(1, x.dtype) - share) + read(inside(low + number(1))) * share

    return te.compute(shape, element, name="resize")


RESIZED = {"Resize": _Resize}
