"""Weights of an ONNX graph as graph inputs, stored in fewer bits and widened in the graph.

    W float32 (initializer) ─► Conv     becomes     W float16 (input) ─► Cast ─► Conv
                                        or          W.codes int8, W.scales float32 (inputs) ─► DequantizeLinear ─► Conv

The graph computes in float32 in every case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from xamc.errors import InputError

Storage = Literal["float32", "float16", "int8"]
Array = NDArray[np.generic]

_FLOAT16_MAX = float(np.finfo(np.float16).max)
# these read values of an input while the graph is lowered, so it has to stay a constant
_READS_VALUES = frozenset(
    ("Resize", "Upsample", "Pad", "Range", "OneHot", "Clip", "QuantizeLinear", "DequantizeLinear", "ConstantOfShape")
)


@dataclass
class StoredWeights:
    """What a graph's weights became.

    Attributes:
        tensors: name of the graph input → values, in the order of the inputs.
        quantized: names of the weights in int8.
        kept: name of each weight that keeps float32 where 16 bits were asked for → why.
    """

    tensors: dict[str, Array] = field(default_factory=dict)
    quantized: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def lift_weights(model: ir.Model) -> dict[str, Array]:
    """Turns float initializers of at least two elements into graph inputs, behind the others; returns their values.

    Of a graph to compile, which is widened, they are float32; of a file in 16-bit floats they are as they are there.
    Scalars, integers, tensors that are not finite (masks) and what an operator reads while it is lowered stay.
    """
    weights: dict[str, Array] = {}
    inner = {v.name for graph in model.graph.subgraphs() for node in graph for v in node.inputs if v is not None}
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or value.dtype not in _FLOATS or tensor.size < 2 or name in inner:
            continue
        if value.is_graph_output() or any(node.op_type in _READS_VALUES for node, _ in value.uses()):
            continue
        array = _read(name, tensor)
        if not np.isfinite(array).all():
            continue
        del model.graph.initializers[name]
        value.const_value = None
        value.shape = ir.Shape(array.shape)
        model.graph.inputs.append(value)
        weights[name] = array
    ir.external_data.load_to_model(model)  # what is left is small
    return weights


def _read(name: str, tensor: ir.TensorProtocol) -> Array:
    try:
        array: Array = tensor.numpy()
    except (OSError, ValueError, TypeError) as error:
        raise InputError("E1153", f"the values of {name} can't be read: {error}", "download the model again") from error
    return array


def store_weights(model: ir.Model, weights: dict[str, Array], storage: Storage) -> StoredWeights:
    """Changes the graph's weight inputs to how they are stored, and widens them behind.

    Args:
        model: after `lift_weights`; changed in place.
        weights: its result.
        storage: `int8` quantizes the weights of convolutions and matrix products, one symmetric scale per output
            channel, and stores all others as float16.
    """
    stored = StoredWeights()
    for name, array in weights.items():
        (value,) = (v for v in model.graph.inputs if v.name == name)
        axis = _channel_axis(value) if storage == "int8" else None
        if storage == "float32":
            stored.tensors[name] = array
        elif axis is not None:
            codes, scales = quantize_per_channel(array, axis)
            stored.tensors |= {f"{name}.codes": codes, f"{name}.scales": scales}
            stored.quantized.append(name)
            _dequantize(model, value, codes, scales, axis)
        elif float(np.abs(array).max()) > _FLOAT16_MAX:
            stored.tensors[name] = array
            stored.kept[name] = "values beyond float16's 65504"
        else:
            stored.tensors[name] = array.astype(np.float16)
            _widen(model, value)
    order = {name: index for index, name in enumerate(stored.tensors)}
    data = [v for v in model.graph.inputs if v.name not in order]
    chosen = sorted((v for v in model.graph.inputs if v.name in order), key=lambda v: order[str(v.name)])
    model.graph.inputs[:] = [*data, *chosen]
    return stored


def quantize_per_channel(array: Array, axis: int) -> tuple[Array, Array]:
    """Symmetric int8 codes in [-127, 127] and one float32 scale per index of `axis`, rounded to nearest."""
    others = tuple(i for i in range(array.ndim) if i != axis)
    wide = array.astype(np.float32)
    scales = np.abs(wide).max(axis=others) / np.float32(127)
    scales[scales < np.finfo(np.float32).tiny] = 1  # zeros, and what a subnormal scale would distort
    shape = [1] * array.ndim
    shape[axis] = -1
    codes = np.clip(np.rint(wide / scales.reshape(shape)), -127, 127).astype(np.int8)
    return codes, scales.astype(np.float32)


def _channel_axis(value: ir.Value) -> int | None:
    """The output channels' axis of the weight of convolutions and matrix products; None for other tensors."""
    rank = len(value.shape) if value.shape is not None else 0
    axes: set[int | None] = set()
    for node, index in value.uses():
        if index == 1 and node.op_type == "Conv" and rank >= 3:
            axes.add(0)
        elif index == 1 and node.op_type == "Gemm" and rank == 2:
            axes.add(0 if node.attributes.get_int("transB", 0) else 1)
        elif index == 1 and node.op_type == "MatMul" and rank == 2:
            axes.add(1)
        else:
            axes.add(None)
    return axes.pop() if len(axes) == 1 else None


def _widen(model: ir.Model, value: ir.Value) -> None:
    """Casts a float16 input to float32; of a table only the rows that were looked up."""
    value.dtype = ir.DataType.FLOAT16
    lookups = [node for node, index in value.uses() if node.op_type == "Gather" and index == 0]
    if len(lookups) < len(value.uses()):
        _behind(model, value, lambda v: [ir.node("Cast", [v], {"to": int(ir.DataType.FLOAT)})])
        return
    for node in lookups:
        rows = node.outputs[0]
        name, outputs = rows.name, rows.is_graph_output()
        cast = ir.node("Cast", [rows], {"to": int(ir.DataType.FLOAT)})
        cast.name, cast.outputs[0].name = f"{name}.widened", name
        cast.outputs[0].shape, cast.outputs[0].type = rows.shape, ir.TensorType(ir.DataType.FLOAT)
        for user, index in list(rows.uses()):
            if user is not cast:
                user.replace_input_with(index, cast.outputs[0])
        if outputs:
            index = model.graph.outputs.index(rows)
            model.graph.outputs[index] = cast.outputs[0]
        rows.name, rows.dtype = f"{name}.stored", ir.DataType.FLOAT16
        assert node.graph is not None
        node.graph.insert_after(node, cast)


def _dequantize(model: ir.Model, value: ir.Value, codes: Array, scales: Array, axis: int) -> None:
    name = str(value.name)
    scale = ir.Value(name=f"{name}.scales", shape=ir.Shape(scales.shape), type=ir.TensorType(ir.DataType.FLOAT))
    model.graph.inputs.append(scale)
    if model.graph.opset_imports.get("", 1) >= 13:
        _behind(model, value, lambda v: [ir.node("DequantizeLinear", [v, scale], {"axis": axis})])
    else:  # operator set 13 brought scales per channel
        shape = [1] * codes.ndim
        shape[axis] = -1
        _behind(model, value, lambda v: _cast_and_scale(v, scale, shape))
    value.name = f"{name}.codes"
    value.dtype = ir.DataType.INT8


def _cast_and_scale(value: ir.Value, scale: ir.Value, shape: list[int]) -> list[ir.Node]:
    dims = ir.node("Constant", [], {"value": ir.tensor(np.array(shape, np.int64))})
    column = ir.node("Reshape", [scale, dims.outputs[0]])
    wide = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)})
    return [dims, column, wide, ir.node("Mul", [wide.outputs[0], column.outputs[0]])]


def _behind(model: ir.Model, value: ir.Value, make: Callable[[ir.Value], list[ir.Node]]) -> None:
    """Puts nodes behind an input, at the head of the graph; the last one's output takes over its uses."""
    uses = list(value.uses())
    nodes = make(value)
    for number, node in enumerate(nodes):
        output = node.outputs[0]
        output.name = f"{value.name}.widened" + (f".{number}" if number < len(nodes) - 1 else "")
        node.name = output.name
    nodes[-1].outputs[0].shape = value.shape
    nodes[-1].outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    for node, index in uses:
        node.replace_input_with(index, nodes[-1].outputs[0])
    first = next(iter(model.graph), None)
    if first is None:
        model.graph.extend(nodes)
    else:
        model.graph.insert_before(first, nodes)
