"""Uses of operators that TVM's importer takes and computes otherwise than ONNX says: refused by name, before any work.

Found by ONNX's own node tests (`python -m tools.bench.onnx_nodes`).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

#: Operator and attribute → the values that are computed as ONNX says, and its default.
_SOUND: dict[tuple[str, str], tuple[frozenset[object], object]] = {
    ("BatchNormalization", "training_mode"): (frozenset((0,)), 0),
    ("Resize", "antialias"): (frozenset((0,)), 0),
    ("RoiAlign", "mode"): (frozenset(("avg",)), "avg"),
    ("SpaceToDepth", "mode"): (frozenset(("DCR",)), "DCR"),
}


def wrong_use(node: ir.Node) -> str | None:
    """Why a node can't be compiled though its operator can; None when it can."""
    for (name, attribute), (sound, default) in _SOUND.items():
        if node.op_type == name:
            value = node.attributes[attribute].value if attribute in node.attributes else default
            if value not in sound:
                return f"has {attribute} {value}, which is computed for {', '.join(map(str, sound))} only"
    if node.op_type == "Dropout" and _may_train(node):
        return "may be in training mode, where it would have to draw random numbers"
    if node.op_type == "ConvTranspose" and "output_shape" in node.attributes:
        return "states its output_shape, which is computed from pads only"
    if node.op_type == "Resize" and rounded_scales(node):
        return "has scales that don't give whole dimensions, and would be computed with those of the rounded ones"
    return None


def _may_train(node: ir.Node) -> bool:
    """Whether the third input, if there is one, may be true."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return False
    return value.const_value is None or bool(value.const_value.numpy().any())


def rounded_scales(node: ir.Node) -> bool:
    """Whether linear or cubic scales, times the dimensions that don't vary, are no whole numbers."""
    data, value = node.inputs[0], node.inputs[2] if len(node.inputs) > 2 else None
    if node.attributes.get_string("mode", "nearest") == "nearest" or data is None or data.shape is None:
        return False
    scales = value.const_value.numpy() if value is not None and value.const_value is not None else np.zeros(0)
    known = [axis for axis, dim in enumerate(data.shape) if isinstance(dim, int)]
    if scales.size != len(data.shape):
        return False
    wanted = scales.astype(np.float64)[known] * [int(data.shape[axis]) for axis in known]
    return bool(np.any(np.abs(wanted - np.rint(wanted)) > 1e-4 * np.maximum(1, wanted)))
