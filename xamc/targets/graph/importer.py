"""TVM's ONNX importer, with operators that it lacks or gets wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnx import TensorProto
from tvm import te, tirx
from tvm.relax.frontend.onnx import from_onnx, onnx_frontend


def import_onnx(proto: Any, shapes: Mapping[str, list[int]] | None = None) -> Any:
    """A model as a Relax module; its inputs are those of the graph, in order.

    Args:
        proto: the model.
        shapes: of the inputs whose shape the importer would not see.
    """
    theirs = onnx_frontend._get_convert_map
    onnx_frontend._get_convert_map = lambda: theirs() | _OURS
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


_OURS = {"Cast": _Cast}
