"""Uses that are written out with the sizes of their operands: `ConvTranspose` to a stated shape, quantized blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from xamc.compiler.frontends.onnx.functions.bodies import body, constant, function, set_constant


def _dims(node: ir.Node, index: int) -> list[int] | None:
    """The shape of an input, if all of it is known."""
    value = node.inputs[index] if len(node.inputs) > index else None
    shape = None if value is None or value.shape is None else list(value.shape)
    return None if shape is None or not all(isinstance(dim, int) for dim in shape) else [int(dim) for dim in shape]


@body("ConvTranspose")
def _conv_transpose(node: ir.Node) -> Any:
    """`output_shape` as the padding that leads to it; where that would be negative, there is more at the end."""
    wanted = list(node.attributes.get_ints("output_shape", []))
    data, weight = _dims(node, 0), _dims(node, 1)
    if not wanted or data is None or weight is None:
        return None
    rank = len(data) - 2
    strides, dilations, more = (
        list(node.attributes.get_ints(name, [default] * rank))
        for name, default in (("strides", 1), ("dilations", 1), ("output_padding", 0))
    )
    upper = node.attributes.get_string("auto_pad", "NOTSET") == "SAME_UPPER"
    begin, end = [], []
    for axis, output in enumerate(wanted[-rank:]):
        full = strides[axis] * (data[2 + axis] - 1) + (weight[2 + axis] - 1) * dilations[axis] + 1 + more[axis]
        total = full - output
        more[axis] += max(0, -total)
        small = max(0, total) // 2
        begin.append(small if upper else max(0, total) - small)
        end.append(max(0, total) - begin[-1])
    if any(extra >= max(pair) for extra, pair in zip(more, zip(strides, dilations))):
        return None
    written = {"pads": [*begin, *end], "output_padding": more, "strides": strides, "dilations": dilations}
    shown = ", ".join(f"{name} = {value}" for name, value in written.items())
    names = ", ".join(["x", "w", "b"][: len(node.inputs)])
    group = node.attributes.get_int("group", 1)
    return function(
        f"""ConvTranspose({names}) => (y) {{
            y = ConvTranspose<{shown}, group = {group}, kernel_shape = {weight[2:]}>({names})
        }}"""
    )


@body("Col2Im")
def _col2im(node: ir.Node) -> Any:
    """Sums of overlapping blocks as a transposed convolution with unit blocks for filters: [N, C K, L] to images."""
    image, block = constant(node, 1), constant(node, 2)
    columns = node.inputs[0]
    if image is None or block is None or columns is None or columns.shape is None or len(image) > 3:
        return None
    taps, rank = int(np.prod(block)), len(image)
    if not isinstance(columns.shape[1], int):
        return None
    strides, dilations = (list(node.attributes.get_ints(name, [1] * rank)) for name in ("strides", "dilations"))
    pads = list(node.attributes.get_ints("pads", [0] * (2 * rank)))
    reach = [(int(block[i]) - 1) * dilations[i] + 1 for i in range(rank)]
    padded = [int(image[i]) + pads[i] + pads[rank + i] for i in range(rank)]
    counts = [(padded[i] - reach[i]) // strides[i] + 1 for i in range(rank)]
    more = [padded[i] - reach[i] - strides[i] * (counts[i] - 1) for i in range(rank)]
    channels = columns.shape[1] // taps
    made = function(
        f"""Col2Im(x, image, block) => (y) {{
            shape = Constant<value_ints = {[0, columns.shape[1], *counts]}>()
            parts = Reshape(x, shape)
            filters = Constant<value_float = 0.0>()
            typed = CastLike(filters, x)
            y = ConvTranspose<group = {channels}, kernel_shape = {block.tolist()}, strides = {strides},
                dilations = {dilations}, pads = {pads}, output_padding = {more}>(parts, typed)
        }}"""
    )
    units = np.eye(taps, dtype=np.float32).reshape(taps, 1, *block.tolist())
    set_constant(made, "filters", np.tile(units, (channels, *[1] * (rank + 1))))
    return made


@body("QuantizeLinear")
def _quantize_blocks(node: ir.Node) -> Any:
    """round(x / scale) + zero, within the integers, with a scale and a zero per block of an axis."""
    blocks, zero = _blocks(node), node.inputs[2] if len(node.inputs) > 2 else None
    kind = ir.DataType(node.attributes.get_int("output_dtype", 0) or int(ir.DataType.UINT8))
    if zero is not None and zero.dtype is not None:
        kind = zero.dtype
    if blocks is None or kind not in (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16):
        return None
    info = np.iinfo(kind.numpy())
    made = function(
        f"""QuantizeLinear({", ".join(["x", "scale", "zero"][: len(node.inputs)])}) => (y) {{
            places = Constant<value_int = 0>()
            scales = Gather<axis = {blocks[0]}>(scale, places)
            x_wide = Cast<to = 1>(x)
            scale_wide = Cast<to = 1>(scales)
            steps = Div(x_wide, scale_wide)
            rounded = Round(steps)
            {_zero_points(node, blocks[0])}
            number = Add(rounded, zero_wide)
            least = Constant<value_float = {float(info.min)}>()
            most = Constant<value_float = {float(info.max)}>()
            bounded = Clip(number, least, most)
            y = Cast<to = {int(kind)}>(bounded)
        }}"""
    )
    set_constant(made, "places", blocks[1])
    return made


@body("DequantizeLinear")
def _dequantize_blocks(node: ir.Node) -> Any:
    """(x - zero) * scale, with a scale and a zero per block of an axis."""
    blocks, scale = _blocks(node), node.inputs[1]
    if blocks is None or scale is None or scale.dtype != ir.DataType.FLOAT:
        return None
    made = function(
        f"""DequantizeLinear({", ".join(["x", "scale", "zero"][: len(node.inputs)])}) => (y) {{
            places = Constant<value_int = 0>()
            scales = Gather<axis = {blocks[0]}>(scale, places)
            x_wide = Cast<to = 1>(x)
            {_zero_points(node, blocks[0])}
            centred = Sub(x_wide, zero_wide)
            y = Mul(centred, scales)
        }}"""
    )
    set_constant(made, "places", blocks[1])
    return made


def _zero_points(node: ir.Node, axis: int) -> str:
    """Lines that make `zero_wide`, in float32, of the zero points of `places`, if there are any."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return "zero_wide = Constant<value_float = 0.0>()"
    return f"zeros = Gather<axis = {axis}>(zero, places)\n zero_wide = Cast<to = 1>(zeros)"


def _blocks(node: ir.Node) -> tuple[int, Any] | None:
    """The axis, and the block of each of its indices; None without blocks."""
    data, size = _dims(node, 0), node.attributes.get_int("block_size", 0)
    if data is None or not size:
        return None
    axis = node.attributes.get_int("axis", 1) % len(data)
    return axis, np.arange(data[axis]) // size


@body("Upsample")
def _upsample(node: ir.Node) -> Any:
    """Nearest elements, one axis at a time: an output's place over the scale, rounded down."""
    data, scales = _dims(node, 0), constant(node, 1) if len(node.inputs) > 1 else None
    if scales is None:
        scales = np.asarray(node.attributes.get_floats("scales", []))
    if data is None or len(scales) != len(data) or node.attributes.get_string("mode", "nearest") != "nearest":
        return None
    lines, places, value = [], {}, "x"
    for axis, (dim, scale) in enumerate(zip(data, scales)):
        if scale == 1:
            continue
        places[f"places{axis}"] = np.minimum(np.arange(int(np.floor(dim * scale))) // scale, dim - 1)
        lines += [
            f"places{axis} = Constant<value_int = 0>()",
            f"x{axis} = Gather<axis = {axis}>({value}, places{axis})",
        ]
        value = f"x{axis}"
    made = function(
        f"Upsample({', '.join(['x', 'scales'][: len(node.inputs)])}) => (y) {{\n"
        + "\n".join([*lines, f"y = Identity({value})\n}}"])
    )
    for name, array in places.items():
        set_constant(made, name, array.astype(np.int64))
    return made
