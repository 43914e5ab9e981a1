"""`auto_pad` SAME_UPPER and SAME_LOWER as padding: numbers where dimensions are known, a padded copy where they vary.

The result has ceil(dimension / stride) elements along an axis; half of what is missing lies before the first one. The
padded copy has exactly the size that such a result is made of, so that sizes stay simple expressions.
"""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx
from tvm.relax.frontend.onnx import onnx_frontend

from xamc.targets.onnx.importer.shape_values import DimArithmetic, as_shape_value
from xamc.targets.onnx.legalize import max_pool_indices

_SAME = ("SAME_UPPER", "SAME_LOWER")


def _auto_pad(attr: Any) -> str:
    return str(attr.get("auto_pad", b"NOTSET").decode())


def _padding(attr: Any, dims: list[Any], kernel: list[int]) -> tuple[list[Any], list[Any]]:
    """Per axis the elements before the first one, and the size with all padding."""
    arithmetic: DimArithmetic = attr["xamc_arithmetic"]
    rank = len(kernel)
    strides, dilations = (list(attr.get(name, [1] * rank)) for name in ("strides", "dilations"))
    before, padded = [], []
    for dim, size, stride, dilation in zip(dims, kernel, strides, dilations, strict=True):
        reach = (size - 1) * dilation + 1
        count = arithmetic.divide(arithmetic.simplified(dim + (stride - 1)), stride)
        whole = arithmetic.simplified((count - 1) * stride + reach)
        # with a stride of 1 a number, though the dimension is none
        missing = arithmetic.largest(arithmetic.simplified(whole - dim), 0)
        half = arithmetic.divide(missing, 2)
        before.append(half if _auto_pad(attr) == "SAME_UPPER" else arithmetic.simplified(missing - half))
        padded.append(whole)
    return before, padded


def _spatial(x: Any) -> list[Any]:
    found = as_shape_value(x.ty.shape)
    if found is None:
        raise ValueError("the dimensions of its input are not known before a run")
    return found.values.tolist()[2:]  # type: ignore[no-any-return]


def _kernel(attr: Any, inputs: Any) -> list[int]:
    """The size of a window: a weight's, where there is one."""
    return [int(dim) for dim in inputs[1].ty.shape.values[2:]] if len(inputs) > 1 else list(attr["kernel_shape"])


def _with_numbers(attr: Any, inputs: Any) -> Any:
    """Attributes with the padding as numbers; None where it is none or would be less than nothing."""
    if _auto_pad(attr) not in _SAME:
        return attr
    dims = _spatial(inputs[0])
    before, padded = _padding(attr, dims, _kernel(attr, inputs))
    arithmetic: DimArithmetic = attr["xamc_arithmetic"]
    after = [arithmetic.simplified(whole - dim - first) for whole, dim, first in zip(padded, dims, before)]
    if not all(isinstance(pad, int) and pad >= 0 for pad in (*before, *after)):
        return None
    rest = {name: value for name, value in attr.items() if name != "auto_pad"}
    return rest | {"pads": [*before, *after]}


def _padded(bb: Any, x: Any, attr: Any, kernel: list[int], outside: float) -> Any:
    """A copy of [N, C, ...] with padding of one number."""
    dims = _spatial(x)
    before, whole = _padding(attr, dims, kernel)

    def compute(x: te.Tensor) -> te.Tensor:
        def element(n: Any, c: Any, *at: Any) -> Any:
            places = [index - first for index, first in zip(at, before)]
            inside = [test for place, dim in zip(places, x.shape[2:]) for test in (place >= 0, place < dim)]
            return tirx.if_then_else(tirx.all(*inside), x(n, c, *places), tirx.const(outside, x.dtype))

        return te.compute([*x.shape[:2], *whole], element, name="pad")

    return bb.emit_te(compute, x, primfunc_name_hint="pad_same")


def _without(attr: Any) -> dict[str, Any]:
    rest = {name: value for name, value in attr.items() if name not in ("auto_pad", "pads")}
    return rest | {"pads": [0] * (2 * len(attr["kernel_shape"]))}


class _Conv(onnx_frontend.Conv):
    @classmethod
    def _impl_v11(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        numbers = _with_numbers(attr, inputs)
        if numbers is not None:
            return super()._impl_v11(bb, inputs, numbers, params)
        kernel = _kernel(attr, inputs)
        given = onnx_frontend.onnx_input([_padded(bb, inputs[0], attr, kernel, 0.0), *list(inputs)[1:]])
        return super()._impl_v11(bb, given, _without(attr | {"kernel_shape": kernel}), params)


class _AveragePool(onnx_frontend.AveragePool):
    """Means over what is not padding are means over all, divided by how much of a window is not padding."""

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        numbers, kernel = _with_numbers(attr, inputs), _kernel(attr, inputs)
        if numbers is not None:
            return super()._impl_v1(bb, inputs, numbers, params)
        plain = _without(attr) | {"ceil_mode": 0}
        means = super()._impl_v1(bb, [_padded(bb, inputs[0], attr, kernel, 0.0)], plain, params)
        if attr.get("count_include_pad", 0):
            return means
        dtype = str(inputs[0].ty.dtype)
        ones = bb.emit(relax.op.ones(relax.ShapeExpr([1, 1, *_spatial(inputs[0])]), dtype))
        share = super()._impl_v1(bb, [_padded(bb, ones, attr, kernel, 0.0)], plain, params)
        return relax.op.divide(bb.normalize(means), bb.normalize(share))


class _LpPool(onnx_frontend.LpPool):
    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        numbers = _with_numbers(attr, inputs)
        if numbers is not None:
            return super()._impl_v1(bb, inputs, numbers, params)
        return super()._impl_v1(bb, [_padded(bb, inputs[0], attr, _kernel(attr, inputs), 0.0)], _without(attr), params)


class _MaxPool(onnx_frontend.MaxPool):
    """With the indices of the largest elements, counted through the whole tensor, as a second output."""

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        x, kernel, indexed = inputs[0], _kernel(attr, inputs), attr["tvm_custom"]["num_outputs"] > 1
        numbers = _with_numbers(attr, inputs)
        if numbers is None:
            if indexed:
                raise ValueError("it gives indices, with an auto_pad that varies with its input's dimensions")
            padded = _padded(bb, x, attr, kernel, float("-inf"))
            return super()._impl_v1(bb, [padded], _without(attr) | {"ceil_mode": 0}, params)
        values = super()._impl_v1(bb, inputs, numbers, params)
        if not indexed:
            return values
        rank = len(kernel)
        before = list(numbers.get("pads", [0] * rank))[:rank]
        columns = bool(attr.get("storage_order", 0)) and rank > 1
        strides, dilations = (list(attr.get(name, [1] * rank)) for name in ("strides", "dilations"))
        shape, sizes = list(bb.normalize(values).ty.shape), [kernel, strides, dilations, before]
        return bb.emit_te(max_pool_indices, x, shape, sizes, columns, primfunc_name_hint="max_pool_places")


PADDED = {"AveragePool": _AveragePool, "Conv": _Conv, "LpPool": _LpPool, "MaxPool": _MaxPool}
