"""`Resize` written out, for the uses that TVM's importer gets wrong or refuses: an axis at a time, as ONNX defines it.

Nearest elements are a `Gather`; linear and cubic interpolation, with or without antialiasing, is a product with a
matrix of [outputs, inputs] that is known before the run. As in every such product, an infinity makes NaN of its row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from xamc.compiler.frontends.onnx.functions.bodies import body, constant, function, set_constant
from xamc.compiler.frontends.onnx.uses import rounded_scales

Floats = NDArray[np.float64]

_RESIZED_BY_TVM = (3, 4, 5)
"""Ranks whose axes from the third on TVM resizes."""
_DTYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class _Axis:
    """One axis of I elements that gets O; `scale` is O / I before O was rounded; `region` is what of I is read."""

    index: int
    inputs: int
    outputs: int
    scale: float
    region: tuple[float, float]


@body("Resize")
def _resize(node: ir.Node) -> Any:
    data = node.inputs[0]
    if data is None or data.shape is None or data.dtype is None or _as_tvm_does(node, len(data.shape)):
        return None
    mode = node.attributes.get_string("mode", "nearest")
    coordinates = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    axes = _axes(node, list(data.shape), coordinates == "tf_crop_and_resize")
    if axes is None or (mode != "nearest" and data.dtype not in _DTYPES):
        return None
    outside = node.attributes.get_float("extrapolation_value", 0.0)
    lines: list[str] = []
    constants: dict[str, NDArray[Any]] = {}
    value = "x"
    for axis in axes:
        positions, read = _positions(axis, coordinates)
        name = f"x{axis.index}"
        if mode == "nearest":
            near = _nearest(positions, axis.inputs, node.attributes.get_string("nearest_mode", "round_prefer_floor"))
            constants[f"{name}_places"] = near
            lines.append(f"{name} = Gather<axis = {axis.index}>({value}, {name}_places)")
            weight = None
        else:
            weight = np.where(read[:, None], _matrix(node, mode, positions, axis), 0)
            lines += _product(name, value, axis.index, len(data.shape))
            last = axis.index != len(data.shape) - 2
            constants[f"{name}_table"] = (weight.T if last else weight).astype(data.dtype.numpy())
        value = name
        if not read.all():
            column = [-1, *[1] * (len(data.shape) - 1 - axis.index)]
            constants[f"{name}_read"] = read.reshape(column)
            constants[f"{name}_outside"] = np.asarray(outside, data.dtype.numpy())
            lines.append(f"{name}_all = Where({name}_read, {name}, {name}_outside)")
            value = f"{name}_all"
    text = "\n".join(
        [f"{name} = Constant<value_float = 0.0>()" for name in constants] + lines + [f"y = Identity({value})"]
    )
    made = function(f"Resize({', '.join(['x', 'roi', 'scales', 'sizes'][: len(node.inputs)])}) => (y) {{\n{text}\n}}")
    for name, array in constants.items():
        set_constant(made, name, array)
    return made


def _as_tvm_does(node: ir.Node, rank: int) -> bool:
    """Whether the importer has this use, and right: it knows all axes from the third on, and whole dimensions."""
    attributes = node.attributes
    if attributes.get_int("antialias", 0) or "axes" in attributes or rank not in _RESIZED_BY_TVM:
        return False
    if attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    scales, sizes, data = constant(node, 2), constant(node, 3), node.inputs[0]
    assert data is not None and data.shape is not None
    if sizes is not None and sizes.size == rank:
        return bool(list(data.shape)[:2] == sizes.tolist()[:2])
    if scales is not None and scales.size == rank:
        return bool(np.all(scales[:2] == 1)) and not rounded_scales(node)
    return True


def _axes(node: ir.Node, shape: list[Any], cropped: bool) -> list[_Axis] | None:
    """The axes that change, if everything about them is known."""
    if node.graph is None or node.graph.opset_imports.get("", 1) < 11:
        return None
    rank, scales, sizes, roi = len(shape), constant(node, 2), constant(node, 3), constant(node, 1)
    chosen = [int(axis) % rank for axis in node.attributes.get_ints("axes", list(range(rank)))]
    given = sizes if sizes is not None and sizes.size else scales
    if given is None or given.size != len(chosen) or (cropped and (roi is None or roi.size != 2 * len(chosen))):
        return None
    if given is sizes and not all(isinstance(shape[axis], int) for axis in chosen):
        return None
    ratios = [float(v) / shape[axis] if given is sizes else float(v) for axis, v in zip(chosen, given, strict=True)]
    policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
    if given is sizes and policy != "stretch":
        ratios = [min(ratios) if policy == "not_larger" else max(ratios)] * len(chosen)
    found = []
    for number, (axis, scale) in enumerate(zip(chosen, ratios, strict=True)):
        region = (float(roi[number]), float(roi[len(chosen) + number])) if cropped and roi is not None else (0.0, 1.0)
        if scale == 1 and region == (0.0, 1.0):
            continue
        if not isinstance(shape[axis], int) or (cropped and given is scales):
            return None
        if given is not sizes:  # in float32, as shape inference has it
            outputs = int(np.float32(scale) * np.float32(shape[axis]))
        else:
            outputs = int(given[number]) if policy == "stretch" else int(scale * shape[axis] + 0.5)
        found.append(_Axis(axis, shape[axis], outputs, scale, region))
    return found


def _positions(axis: _Axis, mode: str) -> tuple[Floats, NDArray[np.bool_]]:
    """Where in the input each output lies [O], and whether it is read there [O], not extrapolated."""
    y, last, exact = np.arange(axis.outputs, dtype=np.float64), axis.inputs - 1, axis.scale * axis.inputs
    if mode == "align_corners":
        positions = y * 0 if exact == 1 else y * last / (exact - 1)
    elif mode == "asymmetric":
        positions = y / axis.scale
    elif mode == "tf_crop_and_resize":
        first, end = axis.region
        positions = y * 0 + (end - first) * last / 2 if exact == 1 else y * (end - first) * last / (exact - 1)
        positions = positions + first * last
        return positions, (positions >= 0) & (positions <= last)
    elif mode == "pytorch_half_pixel" and exact == 1:
        positions = y * 0 - 0.5
    else:
        positions = (y + 0.5) / axis.scale - 0.5
        if mode == "half_pixel_symmetric":
            positions = positions + axis.inputs / 2 * (1 - axis.outputs / exact)
    return positions, np.ones(axis.outputs, np.bool_)


def _nearest(positions: Floats, inputs: int, mode: str) -> NDArray[np.int64]:
    rounded = {
        "round_prefer_floor": np.ceil(positions - 0.5),
        "round_prefer_ceil": np.floor(positions + 0.5),
        "floor": np.floor(positions),
        "ceil": np.ceil(positions),
    }[mode]
    return np.clip(rounded, 0, inputs - 1).astype(np.int64)


def _matrix(node: ir.Node, mode: str, positions: Floats, axis: _Axis) -> Floats:
    """The share [O, I] that every input has in every output."""
    # with antialiasing a smaller image's filter is as much wider as the image is smaller
    width = min(axis.scale, 1.0) if node.attributes.get_int("antialias", 0) else 1.0
    reach = int(np.ceil((1 if mode == "linear" else 2) / width))
    base = np.ceil(positions).astype(np.int64) - 1  # left of the position, never at it
    taps = base[:, None] + np.arange(1 - reach, reach + 1)
    distance = np.abs(taps - positions[:, None]) * width
    if mode == "linear":
        shares = np.clip(1 - distance, 0, None)
    else:
        shares = _cubic(distance, node.attributes.get_float("cubic_coeff_a", -0.75))
    inside = (taps >= 0) & (taps < axis.inputs)
    if node.attributes.get_int("exclude_outside", 0):
        shares = shares * inside
    total = shares.sum(1, keepdims=True)
    shares = shares / np.where(total == 0, 1, total)
    matrix = np.zeros((axis.outputs, axis.inputs))
    np.add.at(matrix, (np.arange(axis.outputs)[:, None], np.clip(taps, 0, axis.inputs - 1)), shares)
    return matrix


def _cubic(d: Floats, a: float) -> Floats:
    """Keys' convolution kernel (1981) at distances d."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _product(name: str, value: str, axis: int, rank: int) -> list[str]:
    """Lines that multiply an axis of a value with a table."""
    if axis == rank - 1:
        return [f"{name} = MatMul({value}, {name}_table)"]
    if axis == rank - 2:
        return [f"{name} = MatMul({name}_table, {value})"]
    order = list(range(rank))
    order[axis], order[-1] = order[-1], order[axis]
    return [
        f"{name}_last = Transpose<perm = {order}>({value})",
        f"{name}_product = MatMul({name}_last, {name}_table)",
        f"{name} = Transpose<perm = {order}>({name}_product)",
    ]
