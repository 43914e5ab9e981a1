"""TVM's ONNX importer, with operators that it lacks or gets wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnx import TensorProto
from tvm import relax, te, tirx, topi
from tvm.relax.frontend.onnx import from_onnx, onnx_frontend

from xamc.targets.graph.legalize import max_pool_places


def import_onnx(proto: Any, shapes: Mapping[str, list[int]] | None = None) -> Any:
    """A model as a Relax module; its inputs are those of the graph, in order.

    Args:
        proto: the model.
        shapes: of the inputs whose shape the importer would not see.
    """
    theirs = onnx_frontend._get_convert_map
    onnx_frontend._get_convert_map = lambda: theirs() | OURS
    try:
        return from_onnx(proto, dict(shapes or {}), keep_params_in_input=False, sanitize_input_names=False)
    finally:
        onnx_frontend._get_convert_map = theirs


class _Cast(onnx_frontend.Cast):
    """bfloat16 would be rounded as float16. Here it is float32 that holds bfloat16's numbers."""

    @classmethod
    def _impl_v13(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        if attr["to"] != TensorProto.BFLOAT16:
            return super()._impl_v13(bb, inputs, attr, params)
        wide = bb.normalize(super()._impl_v13(bb, inputs, {"to": TensorProto.FLOAT}, params))
        return bb.emit_te(_to_bfloat16, wide, primfunc_name_hint="to_bfloat16")


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


class _MaxPool(onnx_frontend.MaxPool):
    """With the places of the largest elements, counted through the whole tensor, as a second output."""

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        values = super()._impl_v1(bb, inputs, attr, params)
        if attr["tvm_custom"]["num_outputs"] < 2:
            return values
        if attr.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise ValueError(f"MaxPool with places and auto_pad {attr['auto_pad'].decode()}")
        x, rank = inputs[0], len(attr["kernel_shape"])
        shape = list(bb.normalize(values).ty.shape)
        columns = bool(attr.get("storage_order", 0)) and rank > 1
        windows = [attr["kernel_shape"], attr.get("strides"), attr.get("dilations"), attr.get("pads")]
        sizes = [list(given or [default] * rank) for given, default in zip(windows, (1, 1, 1, 0))]
        return bb.emit_te(max_pool_places, x, shape, sizes, columns, primfunc_name_hint="max_pool_places")


#: Operator → what writes it in Relax, before the importer's own.
OURS = {"Cast": _Cast, "BitShift": _BitShift, "BitCast": _BitCast, "CumProd": _CumProd, "MaxPool": _MaxPool}
