"""Reductions that TVM writes as loops which are wrong for infinities, for NaN, for nothing, or for booleans.

TVM begins a maximum with the lowest finite number, so that the largest of nothing but -inf is no -inf, and its index
is -1. Here it begins with -inf, and the index with the last index that there is. Integers are as TVM has them.
A NaN is the largest and the smallest of all, and the first one is the index, as in NumPy and ONNX's reference.
A reduction over a dimension of 0 is a loop that never runs, begins nothing, and leaves memory as it was: here it is
what a reduction begins with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import ir, te, tirx

from xamc.targets.onnx.elementwise import elementwise, larger, smaller

_LAST = 2**63 - 1

Legalize = Callable[[Any, Any], Any]


def legalizations() -> dict[str, Legalize]:
    """Relax operator → what writes a call of it as loops, for `relax.transform.LegalizeOps`."""
    found = {
        "relax.max": _or_nothing(_of_floats("relax.max", _reduction(largest=True)), _most_of_nothing(largest=True)),
        "relax.min": _or_nothing(_of_floats("relax.min", _reduction(largest=False)), _most_of_nothing(largest=False)),
        "relax.sum": _or_nothing(ir.Op.get("relax.sum").get_attr("FLegalize"), lambda dtype: tirx.const(0, dtype)),
        "relax.prod": _or_nothing(ir.Op.get("relax.prod").get_attr("FLegalize"), lambda dtype: tirx.const(1, dtype)),
        "relax.argmax": _of_floats("relax.argmax", _index(largest=True)),
        "relax.argmin": _of_floats("relax.argmin", _index(largest=False)),
    }
    found |= elementwise()
    return found | {name: _of_floats(name, _max_pool) for name in (f"relax.nn.max_pool{rank}d" for rank in (1, 2, 3))}


def _of_floats(name: str, ours: Legalize) -> Legalize:
    theirs = ir.Op.get(name).get_attr("FLegalize")
    return lambda builder, call: (ours if _kind(call) in ("float", "bool") else theirs)(builder, call)


def _kind(call: Any) -> str:
    return str(call.args[0].ty.dtype).rstrip("0123456789")


def _or_nothing(legalize: Legalize, nothing: Callable[[str], Any]) -> Legalize:
    """As `legalize`, but `nothing` of its type where a dimension that is reduced is 0."""

    def compute(x: te.Tensor, dims: list[Any]) -> te.Tensor:
        return te.compute(dims, lambda *_: nothing(x.dtype), name="nothing")

    def either(builder: Any, call: Any) -> Any:
        shape = list(call.args[0].ty.shape)
        if all(getattr(shape[axis], "value", 1) != 0 for axis in _axes(call)):
            return legalize(builder, call)
        return builder.call_te(compute, call.args[0], list(call.ty.shape), primfunc_name_hint="nothing")

    return either


def _most_of_nothing(largest: bool) -> Callable[[str], Any]:
    """What the largest, or smallest, of no elements is: an infinity, or the other end of the integers."""

    def value(dtype: str) -> Any:
        if "int" in str(dtype):
            return tirx.min_value(dtype) if largest else tirx.max_value(dtype)
        return _least(dtype, largest)

    return value


def _least(dtype: str, largest: bool) -> Any:
    """What a maximum, or a minimum, of floats or booleans begins with."""
    return tirx.const(not largest, dtype) if dtype == "bool" else tirx.const(float("-inf" if largest else "inf"), dtype)


def _axes(call: Any) -> list[int]:
    rank = len(call.args[0].ty.shape)
    given = call.attrs.axis
    if given is None:
        return list(range(rank))
    return sorted({int(axis) % rank for axis in (given if hasattr(given, "__iter__") else [given])})


def _reduced(x: te.Tensor, axes: list[int], keep: bool) -> tuple[list[Any], list[Any], Callable[..., list[Any]]]:
    """The result's dimensions, the axes that are reduced, and the index in x of those and of a result's index."""
    reduced = {axis: te.reduce_axis((0, x.shape[axis]), name=f"k{axis}") for axis in axes}
    dims = [1 if axis in reduced else dim for axis, dim in enumerate(x.shape) if keep or axis not in reduced]

    def position(*indices: Any) -> list[Any]:
        kept = iter(index for axis, index in enumerate(indices) if not keep or axis not in reduced)
        return [reduced[axis].var if axis in reduced else next(kept) for axis in range(len(x.shape))]

    return dims, list(reduced.values()), position


def _reducer(largest: bool, dtype: Any) -> Any:
    def combine(left: Any, right: Any) -> Any:
        if str(dtype) == "bool":
            return tirx.any(left, right) if largest else tirx.all(left, right)
        return larger(left, right) if largest else smaller(left, right)

    return te.comm_reducer(combine, lambda kind: _least(kind, largest), name="max" if largest else "min")


def _reduction(largest: bool) -> Legalize:
    name = "max" if largest else "min"

    def compute(x: te.Tensor, axes: list[int], keep: bool) -> te.Tensor:
        dims, reduced, position = _reduced(x, axes, keep)
        reducer = _reducer(largest, x.dtype)
        return te.compute(dims, lambda *at: reducer(x(*position(*at)), axis=reduced), name=name)

    return lambda builder, call: builder.call_te(
        compute, call.args[0], _axes(call), bool(call.attrs.keepdims), primfunc_name_hint=name
    )


def _better(largest: bool) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Of two pairs of index and value the one with the better value; of equal ones, and of two NaN, the earlier one."""

    def combine(left: Any, right: Any) -> tuple[Any, Any]:
        better = left[1] > right[1] if largest else left[1] < right[1]
        same = left[1] == right[1]
        if str(left[1].ty).startswith("float"):
            nan, other = tirx.isnan(left[1]), tirx.isnan(right[1])
            better = tirx.any(better, tirx.all(nan, tirx.Not(other)))
            same = tirx.any(same, tirx.all(nan, other))
        stays = tirx.any(better, tirx.all(same, left[0] < right[0]))
        return tirx.Select(stays, left[0], right[0]), tirx.Select(stays, left[1], right[1])

    return combine


def _index(largest: bool) -> Legalize:
    """The first of equal elements, or of NaN, as int64; of several axes that of the flattened ones."""
    name = "argmax" if largest else "argmin"

    reducer = te.comm_reducer(
        _better(largest),
        lambda index, value: (tirx.const(_LAST, index), _least(value, largest)),
        name=name,
    )

    def compute(x: te.Tensor, axes: list[int], keep: bool) -> te.Tensor:
        dims, reduced, position = _reduced(x, axes, keep)

        def pair(*at: Any) -> Any:
            flat: Any = tirx.const(0, "int64")
            for axis in reduced:
                flat = flat * tirx.Cast("int64", axis.dom.extent) + tirx.Cast("int64", axis.var)
            return reducer((flat, x(*position(*at))), axis=reduced)

        indices, _ = te.compute(dims, pair, name=name)
        return te.compute(dims, lambda *at: indices(*at), name=f"{name}_place")

    return lambda builder, call: builder.call_te(
        compute, call.args[0], _axes(call), bool(call.attrs.keepdims), primfunc_name_hint=name
    )


def _max_pool(builder: Any, call: Any) -> Any:
    """Windows over [N, C, ...]; padding is -inf, and so is a window of nothing else."""
    attrs, rank = call.attrs, len(call.args[0].ty.shape) - 2
    layout = str(attrs.layout)
    if not layout.startswith("NC") or str(attrs.out_layout) != layout:
        return ir.Op.get(call.op.name).get_attr("FLegalize")(builder, call)
    kernel, strides, dilation, padding = (
        [int(dim) for dim in given] for given in (attrs.pool_size, attrs.strides, attrs.dilation, attrs.padding)
    )
    reducer = _reducer(largest=True, dtype=call.args[0].ty.dtype)

    def compute(x: te.Tensor) -> te.Tensor:
        taps = [te.reduce_axis((0, dim), name=f"k{axis}") for axis, dim in enumerate(kernel)]

        def largest(n: Any, c: Any, *at: Any) -> Any:
            position = [
                at[axis] * strides[axis] + taps[axis].var * dilation[axis] - padding[axis] for axis in range(rank)
            ]
            inside = [
                condition
                for index, dim in zip(position, x.shape[2:], strict=True)
                for condition in (index >= 0, index < dim)
            ]
            value = tirx.if_then_else(tirx.all(*inside), x(n, c, *position), _least(x.dtype, True))
            return reducer(value, axis=taps)

        return te.compute(call.ty.shape.values, largest, name="max_pool")

    return builder.call_te(compute, call.args[0], primfunc_name_hint=f"max_pool{rank}d")


def max_pool_indices(x: te.Tensor, shape: list[Any], sizes: list[list[int]], columns: bool) -> list[te.Tensor]:
    """The largest elements of windows over [N, C, ...], and their indices in the flattened tensor, the first of equals.

    Args:
        x: the tensor.
        shape: of the result.
        sizes: per axis of a window, its size, strides, dilations and the padding before it.
        columns: count the last two axes column by column.
    """
    kernel, strides, dilation, padding = sizes
    taps = [te.reduce_axis((0, dim), name=f"k{axis}") for axis, dim in enumerate(kernel)]
    least = _most_of_nothing(largest=True)

    reducer = te.comm_reducer(
        _better(largest=True), lambda index, kind: (tirx.const(_LAST, index), least(kind)), name="max_place"
    )

    def largest(n: Any, c: Any, *at: Any) -> Any:
        position = [at[i] * strides[i] + taps[i].var * dilation[i] - padding[i] for i in range(len(kernel))]
        bounds = list(zip(position, x.shape[2:], strict=True))
        inside = tirx.all(*(condition for index, dim in bounds for condition in (index >= 0, index < dim)))
        flat: Any = tirx.const(0, "int64")
        for index, dim in zip((n, c, *position), x.shape, strict=True):
            flat = flat * tirx.Cast("int64", dim) + tirx.Cast("int64", index)
        value = tirx.if_then_else(inside, x(n, c, *position), least(x.dtype))
        return reducer((tirx.if_then_else(inside, flat, tirx.const(_LAST, "int64")), value), axis=taps)

    indices, values = te.compute(shape, largest, name="max_pool_places")
    if not columns:
        return [values, indices]
    rows, width = (tirx.Cast("int64", dim) for dim in x.shape[-2:])

    def by_column(*at: Any) -> Any:
        plane, inner = tirx.indexdiv(indices(*at), rows * width), tirx.indexmod(indices(*at), rows * width)
        return plane * rows * width + tirx.indexmod(inner, width) * rows + tirx.indexdiv(inner, width)

    return [values, te.compute(shape, by_column, name="max_pool_columns")]
