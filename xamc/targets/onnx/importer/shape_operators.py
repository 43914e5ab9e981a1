"""Operators that take a shape, where that is an expression: a result's shape is known, though not as numbers."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

from tvm import relax, te, tirx, topi
from tvm.relax.frontend.onnx import onnx_frontend

from xamc.targets.onnx.importer.shape_values import DimArithmetic, ShapeValue, as_shape_value, as_tensor

SHAPE_INPUTS = {
    "ConstantOfShape": (0,), "Expand": (1,), "Pad": (1,), "Range": (0, 1, 2), "Reshape": (1,), "Resize": (3,),
    "Slice": (1, 2, 3, 4), "Tile": (1,), "TopK": (1,),
}  # fmt: skip
"""Operator → its inputs that say what shape the result has."""


def takes_shape_value(op: str, index: int, value: ShapeValue) -> bool:
    """Whether an operator takes an input as a shape; as a tensor it would have a result of unknown shape."""
    return index in SHAPE_INPUTS.get(op, ()) and not value.known


def _shape(value: Any) -> list[Any]:
    """A tensor's dimensions, as numbers where they are."""
    found = as_shape_value(value.ty.shape)
    if found is None:
        raise ValueError("the shape of its input is not known before a run")
    return found.values.tolist()  # type: ignore[no-any-return]


class _Reshape(onnx_frontend.Reshape):
    @classmethod
    def _impl_v13(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        wanted = as_shape_value(inputs[1])
        if wanted is None:
            raise ValueError("it is given a shape that depends on data, not on the dimensions of inputs")
        if wanted.known:
            return super()._impl_v13(bb, inputs, attr, params)
        data = as_tensor(bb, inputs[0])
        arithmetic: DimArithmetic = attr["xamc_arithmetic"]
        given, target = _shape(data), wanted.values.tolist()
        if not attr.get("allowzero", 0):
            target = [given[i] if isinstance(one, int) and one == 0 else one for i, one in enumerate(target)]
        open_axes = [i for i, one in enumerate(target) if isinstance(one, int) and one == -1]
        if open_axes:
            rest = [one for i, one in enumerate(target) if i not in open_axes]
            total, known = (reduce(operator.mul, dims, 1) for dims in (given, rest))
            target[open_axes[0]] = arithmetic.divide(arithmetic.simplified(total), arithmetic.simplified(known))
        return relax.op.reshape(data, relax.ShapeExpr(target))


class _Expand(onnx_frontend.Expand):
    @classmethod
    def _impl_v13(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        wanted = as_shape_value(inputs[1])
        if wanted is None:
            raise ValueError("it is given a shape that depends on data, not on the dimensions of inputs")
        given, target = _shape(inputs[0]), wanted.values.tolist()
        rank = max(len(given), len(target))
        given, target = ([1] * (rank - len(one)) + one for one in (given, target))
        # a dimension of 1 gives way; others are equal, or the model is wrong
        result = [b if isinstance(a, int) and a == 1 else a for a, b in zip(given, target, strict=True)]
        for a, b in zip(given, target, strict=True):
            if isinstance(a, int) and isinstance(b, int) and a != b and 1 not in (a, b):
                raise ValueError(f"it can't make {b} of a dimension of {a}")
        return relax.op.broadcast_to(inputs[0], relax.ShapeExpr(result))


class _ConstantOfShape(onnx_frontend.ConstantOfShape):
    @classmethod
    def _impl_v9(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        if isinstance(inputs[0], ShapeValue):
            inputs = [relax.ShapeExpr(inputs[0].values.tolist())]
        elif as_shape_value(inputs[0]) is None:
            raise ValueError("it is given a shape that depends on data, not on the dimensions of inputs")
        return super()._impl_v9(bb, inputs, attr, params)


class _Tile(onnx_frontend.Tile):
    @classmethod
    def _impl_v13(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        if not isinstance(inputs[1], ShapeValue):
            return super()._impl_v13(bb, inputs, attr, params)
        given, repeats = _shape(inputs[0]), inputs[1].values.tolist()
        arithmetic: DimArithmetic = attr["xamc_arithmetic"]
        shape = [arithmetic.simplified(a * b) for a, b in zip(given, repeats, strict=True)]

        def compute(x: te.Tensor) -> te.Tensor:
            return te.compute(
                shape, lambda *at: x(*(tirx.indexmod(i, n) for i, n in zip(at, x.shape, strict=True))), name="tile"
            )

        return bb.emit_te(compute, inputs[0], primfunc_name_hint="tile")


class _Range(onnx_frontend.Range):
    @classmethod
    def _impl_v12(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        given = [as_shape_value(value) for value in inputs[:3]]
        if any(one is None for one in given):
            if all(as_shape_value(value) is None and not hasattr(value, "value") for value in inputs[:2]):
                raise ValueError("its length depends on data, not on the dimensions of inputs")
            return super()._impl_v12(bb, inputs, attr, params)
        start, limit, step = (one.values.reshape(()).item() for one in given if one is not None)
        if not isinstance(step, int):
            raise ValueError("its step is not known before a run")
        arithmetic: DimArithmetic = attr["xamc_arithmetic"]
        distance = (limit - start) if step > 0 else (start - limit)
        size = abs(step)
        count = arithmetic.divide(arithmetic.simplified(distance + (size - 1)), size)
        count = arithmetic.largest(count, 0)

        def compute() -> te.Tensor:
            return te.compute([count], lambda i: start + tirx.Cast("int64", i) * step, name="range")

        values = bb.emit_te(compute, primfunc_name_hint="range")
        dtype = next(one.dtype for one in given if one is not None)
        return values if dtype == "int64" else relax.op.astype(values, dtype)


class _Slice(onnx_frontend.Slice):
    """Bounds beyond an axis end at it, as those that are numbers do."""

    @classmethod
    def _impl_v13(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        if not any(isinstance(value, ShapeValue) for value in inputs):
            return super()._impl_v13(bb, inputs, attr, params)
        starts, ends, axes, steps = (
            as_shape_value(inputs[index]) if inputs[index] is not None else None for index in (1, 2, 3, 4)
        )
        data, shape = inputs[0], _shape(inputs[0])
        if starts is None or ends is None or any(one is not None and not one.known for one in (axes, steps)):
            raise ValueError("its bounds depend on data, not on the dimensions of inputs")
        count = starts.values.size
        along = [int(axis) % len(shape) for axis in axes.values.tolist()] if axes is not None else list(range(count))
        strides = steps.values.tolist() if steps is not None else [1] * count
        if min(strides) < 1:
            raise ValueError("it runs backward from a bound that is computed from dimensions")
        arithmetic: DimArithmetic = attr["xamc_arithmetic"]
        begin, end = [], []
        for axis, first, last in zip(along, starts.values.tolist(), ends.values.tolist(), strict=True):
            first, last = (_inside(arithmetic, bound, shape[axis]) for bound in (first, last))
            begin.append(first)
            end.append(arithmetic.largest(first, last))
        written = [[relax.prim_value(_int64(value)) for value in values] for values in (begin, end, strides)]
        return relax.op.strided_slice(data, along, *written, assume_inbound=True)


def _int64(value: Any) -> Any:
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


def _inside(arithmetic: DimArithmetic, bound: Any, dim: Any) -> Any:
    """A bound of a slice as a place from 0 to the dimension; one below 0 counts from the end."""
    if arithmetic.proves(bound < 0):
        bound = arithmetic.simplified(bound + dim)
    elif not arithmetic.proves(bound >= 0):
        bound = arithmetic.simplified(tirx.Select(bound < 0, bound + dim, bound))
    return arithmetic.smallest(arithmetic.largest(bound, 0), dim)


class _Pad(onnx_frontend.Pad):
    @classmethod
    def _lower_pad(cls, bb: Any, inputs: Any, attr: Any, params: Any, allowed_modes: Any) -> Any:
        if not isinstance(inputs[1], ShapeValue):
            return super()._lower_pad(bb, inputs, attr, params, allowed_modes)
        mode = attr.get("mode", b"constant").decode()
        if mode != "constant":
            raise ValueError(f"it pads with mode {mode} by numbers that are computed from dimensions")
        pads, rank = inputs[1].values.tolist(), len(_shape(inputs[0]))
        axes = list(range(rank))
        if inputs[3] is not None:
            given = as_shape_value(inputs[3])
            if given is None or not given.known:
                raise ValueError("its axes are not known before a run")
            axes = [int(axis) % rank for axis in given.values.tolist()]
        before, after = [0] * rank, [0] * rank
        for index, axis in enumerate(axes):
            before[axis], after[axis] = pads[index], pads[len(axes) + index]
        value = 0.0 if inputs[2] is None else inputs[2].value.numpy().item()
        return bb.emit_te(topi.nn.pad, inputs[0], before, after, value)


SHAPED = {
    "ConstantOfShape": _ConstantOfShape,
    "Expand": _Expand,
    "Pad": _Pad,
    "Range": _Range,
    "Reshape": _Reshape,
    "Slice": _Slice,
    "Tile": _Tile,
}
