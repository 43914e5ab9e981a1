"""Operators that TVM's ONNX importer lacks or gets wrong."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

import numpy as np
from onnx import TensorProto
from tvm import ir, relax, te, tirx, topi
from tvm.relax.frontend.onnx import onnx_frontend

from xamc.targets.kernels.topk import topk
from xamc.targets.onnx.importer.shape_values import as_shape_value


class _Cast(onnx_frontend.Cast):
    """bfloat16 would be rounded as float16. Here it is float32 that holds bfloat16's numbers.

    Of floats that int32 and int64 don't hold, NaN among them, ONNX leaves the result open; here it is the lowest
    integer, as in ONNX Runtime and NumPy on x86, where TVM gives 0 or the rest of a division.
    """

    @classmethod
    def _impl_v13(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        if attr["to"] in (TensorProto.INT32, TensorProto.INT64) and _is_float_tensor(inputs[0]):
            dtype = onnx_frontend.get_type(attr["to"])
            return bb.emit_te(_to_integers, inputs[0], dtype, primfunc_name_hint=f"to_{dtype}")
        if attr["to"] != TensorProto.BFLOAT16:
            return super()._impl_v13(bb, inputs, attr, params)
        wide = bb.normalize(super()._impl_v13(bb, inputs, {"to": TensorProto.FLOAT}, params))
        return bb.emit_te(_to_bfloat16, wide, primfunc_name_hint="to_bfloat16")


def _is_float_tensor(value: Any) -> bool:
    if isinstance(value, ir.GenericConst) or not isinstance(value.ty, relax.TensorType):
        return False
    return str(value.ty.dtype).startswith("float")


def _to_integers(x: te.Tensor, dtype: str) -> te.Tensor:
    limit = tirx.const(2.0 ** (int(dtype.removeprefix("int")) - 1), x.dtype)
    zero, lowest = tirx.const(0, x.dtype), tirx.min_value(dtype)

    def converted(*at: Any) -> Any:
        value = x(*at)
        inside = tirx.all(value < limit, value >= -limit)  # both are false for NaN
        return tirx.Select(inside, tirx.Select(inside, value, zero).astype(dtype), lowest)

    return te.compute(x.shape, converted, name=f"to_{dtype}")


def _to_bfloat16(x: te.Tensor) -> te.Tensor:
    """The upper 16 bits, to the nearest, of two equally near the even one; NaN stays as it is."""

    def rounded(*at: Any) -> Any:
        value = x(*at)
        bits = tirx.reinterpret("uint32", value)
        odd = (bits >> tirx.const(16, "uint32")) & tirx.const(1, "uint32")
        upper = (bits + tirx.const(0x7FFF, "uint32") + odd) & tirx.const(0xFFFF0000, "uint32")
        return tirx.Select(tirx.isnan(value), value, tirx.reinterpret("float32", upper))

    return te.compute(x.shape, rounded, name="to_bfloat16")


class _BitShift(onnx_frontend.OnnxOpConverter):
    """By as many bits as there are, or by fewer than none, nothing but the sign is left; TVM leaves that undefined."""

    @classmethod
    def _impl_v11(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        x, y = inputs
        shape = bb.normalize(relax.op.add(x, y)).ty.shape
        left = attr["direction"] == b"LEFT"
        return bb.emit_te(_shift, x, y, list(shape), left, primfunc_name_hint="bit_shift")


def _shift(x: te.Tensor, y: te.Tensor, shape: list[Any], left: bool) -> te.Tensor:
    dtype = str(x.dtype)
    bits = tirx.const(int(dtype.lstrip("uint")), dtype)
    zero = tirx.const(0, dtype)
    wide, by = topi.broadcast_to(x, shape), topi.broadcast_to(y, shape)

    def shifted(*at: Any) -> Any:
        value, count = wide(*at), by(*at)
        inside = tirx.all(count >= zero, count < bits)
        safe = tirx.Select(inside, count, zero)
        if left:
            return tirx.Select(inside, value << safe, zero)
        sign = zero if dtype.startswith("u") else tirx.Select(value < zero, tirx.const(-1, dtype), zero)
        return tirx.Select(inside, value >> safe, sign)

    return te.compute(shape, shifted, name="bit_shift")


class _BitCast(onnx_frontend.OnnxOpConverter):
    """The same bits as another type of as many; booleans are the bytes 0 and 1."""

    @classmethod
    def _impl_v26(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        dtype = onnx_frontend.get_type(attr["to"])

        def compute(x: te.Tensor) -> te.Tensor:
            if "bool" in (dtype, str(x.dtype)):
                return te.compute(x.shape, lambda *at: x(*at).astype(dtype), name="bit_cast")
            return te.compute(x.shape, lambda *at: tirx.reinterpret(dtype, x(*at)), name="bit_cast")

        return bb.emit_te(compute, inputs[0], primfunc_name_hint="bit_cast")


class _CumProd(onnx_frontend.OnnxOpConverter):
    """As `CumSum`."""

    @classmethod
    def _impl_v26(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        axis = onnx_frontend.get_constant(inputs[1], params)
        if not hasattr(axis, "value"):
            raise ValueError("CumProd of an axis that is not known before a run")
        place, data = int(axis.value.numpy().reshape(())), inputs[0]
        if attr.get("reverse", 0):
            data = bb.normalize(relax.op.flip(data, place))
        data = bb.normalize(relax.op.cumprod(data, place, exclusive=bool(attr.get("exclusive", 0))))
        return relax.op.flip(data, place) if attr.get("reverse", 0) else data


class _OfMany(onnx_frontend.OnnxOpConverter):
    """`Max`, `Min`, `Sum` of any number of tensors, two at a time, in their order; convolutions may take them in."""

    relax_op: Any

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        tensors = list(inputs)
        if len(tensors) == 2:  # a constant comes last, as in Clip
            tensors.sort(key=lambda operand: isinstance(operand, ir.GenericConst))
        return reduce(lambda left, right: bb.normalize(cls.relax_op(left, right)), tensors)


class _Max(_OfMany):
    relax_op = relax.op.maximum


class _Min(_OfMany):
    relax_op = relax.op.minimum


class _Clip(onnx_frontend.OnnxOpConverter):
    """Elements that are NaN stay so. A bound that is NaN is none, as in ONNX Runtime; one that is left out is the
    lowest, or the largest, finite number, as ONNX says."""

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        dtype = str(inputs[0].ty.dtype)
        bounds = [relax.const(attr[name], dtype) if name in attr else None for name in ("min", "max")]
        return cls._between(bb, inputs[0], bounds)

    @classmethod
    def _impl_v11(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        return cls._between(bb, inputs[0], [inputs[1], inputs[2]])

    @classmethod
    def _between(cls, bb: Any, value: Any, bounds: list[Any]) -> Any:
        dtype = str(value.ty.dtype)
        for given, open_end, call in zip(bounds, ("-inf", "inf"), (relax.op.maximum, relax.op.minimum)):
            bound = given
            if bound is None and dtype.startswith("float"):
                bound = relax.const(np.nan_to_num(np.array(open_end, dtype)), dtype)
            if bound is None:
                continue
            if isinstance(bound, ir.GenericConst):
                if np.isnan(bound.value.numpy()).any():
                    continue
            elif dtype.startswith("float"):
                bound = bb.emit(relax.op.where(relax.op.isnan(bound), relax.const(float(open_end), dtype), bound))
            value = bb.normalize(call(value, bound))
        return value


class _Sum(_OfMany):
    relax_op = relax.op.add


class _Mean(_Sum):
    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        total = bb.normalize(super()._impl_v1(bb, inputs, attr, params))
        return relax.op.divide(total, relax.const(len(inputs), str(total.ty.dtype)))


class _Elu(onnx_frontend.OnnxOpConverter):
    """a (e^x - 1) below 0, of any float type; `Selu` is a multiple of it."""

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        return cls._of(inputs[0], attr.get("alpha", 1.0))

    @classmethod
    def _of(cls, x: Any, alpha: float) -> Any:
        dtype = str(x.ty.dtype)
        below = relax.op.multiply(relax.const(alpha, dtype), relax.op.subtract(relax.op.exp(x), relax.const(1, dtype)))
        return relax.op.where(relax.op.less(x, relax.const(0, dtype)), below, x)


class _Selu(_Elu):
    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        value = cls._of(inputs[0], attr.get("alpha", 1.67326319217681884765625))
        gamma = relax.const(attr.get("gamma", 1.05070102214813232421875), str(inputs[0].ty.dtype))
        return relax.op.multiply(gamma, value)


class _TopK(onnx_frontend.OnnxOpConverter):
    """A kernel, for TVM's own is a function that only its large library has; `sorted` 0 leaves the order open."""

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        return cls._of(bb, inputs[0], int(attr["k"]), attr)

    @classmethod
    def _impl_v10(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        found = as_shape_value(inputs[1])
        if found is None:
            raise ValueError("its k depends on data, and with it the shape of its results")
        (k,) = found.values.reshape(-1).tolist()
        return cls._of(bb, inputs[0], k, attr)

    @classmethod
    def _of(cls, bb: Any, x: Any, k: Any, attr: Any) -> Any:
        shape, dtype, largest = list(x.ty.shape), str(x.ty.dtype), bool(attr.get("largest", 1))
        axis = int(attr.get("axis", -1)) % len(shape)
        result = [*shape[:axis], k, *shape[axis + 1 :]]
        if isinstance(k, int) and k == 0:
            return relax.Tuple([relax.op.zeros(relax.ShapeExpr(result), kind) for kind in (dtype, "int64")])
        rows, inner = (reduce(operator.mul, dims, 1) for dims in (shape[:axis], shape[axis + 1 :]))
        most = k if isinstance(k, int) else None
        name = f"topk_{dtype}_{'any' if most is None else k}_{'largest' if largest else 'smallest'}"
        kernel = bb.add_func(topk(name, dtype, most, largest), name)
        flat = bb.normalize(relax.op.reshape(x, relax.ShapeExpr([rows, shape[axis], inner])))
        types = [relax.TensorType([rows, k, inner], kind) for kind in (dtype, "int64")]
        best = bb.emit(relax.call_tir(kernel, relax.Tuple([flat]), types))
        return relax.Tuple([bb.emit(relax.op.reshape(best[i], relax.ShapeExpr(result))) for i in range(2)])


class _ThresholdedRelu(onnx_frontend.OnnxOpConverter):
    """A product with 0 would be NaN for -inf and -0 for others; it is of any float type here."""

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        x, dtype = inputs[0], str(inputs[0].ty.dtype)
        above = relax.op.greater(x, relax.const(attr.get("alpha", 1.0), dtype))
        return relax.op.where(above, x, relax.const(0, dtype))


class _PRelu(onnx_frontend.OnnxOpConverter):
    """What is below 0 times its slope, which is broadcast as in a product."""

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        x, slope = inputs[0], inputs[1]
        below = relax.op.less(x, relax.const(0, str(x.ty.dtype)))
        return relax.op.where(below, bb.normalize(relax.op.multiply(x, slope)), x)


#: Operator → what writes it in Relax, before the importer's own.
CONVERTERS = {
    "BitCast": _BitCast,
    "BitShift": _BitShift,
    "Cast": _Cast,
    "Clip": _Clip,
    "CumProd": _CumProd,
    "Elu": _Elu,
    "Max": _Max,
    "Mean": _Mean,
    "Min": _Min,
    "PRelu": _PRelu,
    "Selu": _Selu,
    "Sum": _Sum,
    "ThresholdedRelu": _ThresholdedRelu,
    "TopK": _TopK,
}
