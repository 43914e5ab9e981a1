"""Models in float16 and bfloat16, widened: the graph computes in float32, and rounds where it says that it casts.

    x float16 ─► Conv(W float16) ─► y float16
                becomes
    x float16 ─► Cast(float32) ─► Conv(W float32) ─► Cast(float16) ─► y float16

NumPy has no bfloat16: inputs and outputs of that type are float32. An input is rounded to it first.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

FLOAT, FLOAT16, BFLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16
HALF_PRECISION = (FLOAT16, BFLOAT16)
#: Attributes that name an element type: of a result, or of what is computed in.
_TYPE_ATTRIBUTES = ("dtype", "output_dtype", "output_datatype", "precision", "softmax_precision", "stash_type")


def half_type(model: ir.Model) -> ir.DataType | None:
    """The 16-bit float that a model has values of; bfloat16 if it has both, None if it has neither.

    Args:
        model: shapes given; the types of inner values are inferred, in place.
    """
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    found = {value.dtype for value in _values(model)}
    return next((kind for kind in reversed(HALF_PRECISION) if kind in found), None)


def widen(model: ir.Model) -> None:
    """Makes a graph compute in float32, in place; a weight is widened when it is read.

    Args:
        model: its types inferred, as `half_type` leaves them.
    """
    inputs = [(value, value.dtype) for value in model.graph.inputs if value.dtype in HALF_PRECISION]
    outputs = [index for index, value in enumerate(model.graph.outputs) if value.dtype == FLOAT16]
    rounding = [(node, kind) for node in model.graph.all_nodes() if (kind := _rounds_to(node)) is not None]
    for value in _values(model):
        if value.dtype in HALF_PRECISION:
            if value.const_value is not None:
                value.const_value = _widened(value.const_value)
            value.type = ir.TensorType(FLOAT)
    for node in model.graph.all_nodes():
        _widen_attributes(node)
    for node, kind in rounding:
        source, graph = node.inputs[0], node.graph
        assert source is not None and graph is not None
        narrow = _cast(source, f"{node.outputs[0].name}.rounded", kind)
        graph.insert_before(node, narrow)
        node.replace_input_with(0, narrow.outputs[0])
    for value, half in inputs:
        value.type = ir.TensorType(half if half == FLOAT16 else FLOAT)
        _behind_input(model, value, [FLOAT] if half == FLOAT16 else [BFLOAT16, FLOAT])
    for index in outputs:
        _before_output(model, index, FLOAT16)


def by_operator(model: ir.Model) -> None:
    """Has each operator compute in float32 and round its results to bfloat16, in place; inputs and outputs are float32.

    That is what ONNX Runtime does for float16 by itself. Of bfloat16 it has little more than the casts.

    Args:
        model: its types inferred, as `half_type` leaves them.
    """
    for node in list(model.graph.all_nodes()):
        graph = node.graph
        if node.op_type == "Cast" or graph is None:
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == BFLOAT16:
                wide = _cast(value, f"{value.name}.{node.outputs[0].name}.{index}", FLOAT)
                graph.insert_before(node, wide)
                node.replace_input_with(index, wide.outputs[0])
        for value in node.outputs:
            if value.dtype == BFLOAT16:
                users = list(value.uses())
                value.type = ir.TensorType(FLOAT)
                narrow = _cast(value, f"{value.name}.rounded", BFLOAT16)
                graph.insert_after(node, narrow)
                for user, index in users:
                    user.replace_input_with(index, narrow.outputs[0])
        _widen_attributes(node)
    for value in list(model.graph.inputs):
        if value.dtype == BFLOAT16:
            value.type = ir.TensorType(FLOAT)
            _behind_input(model, value, [BFLOAT16])
    for index, value in enumerate(model.graph.outputs):
        if value.dtype == BFLOAT16:
            _before_output(model, index, FLOAT)


def reads_bits(node: ir.Node) -> bool:
    """Whether a node takes the bits of a 16-bit float for a number, or the other way round: float32 has others."""
    values = (*node.inputs, *node.outputs)
    return node.op_type == "BitCast" and any(value is not None and value.dtype in HALF_PRECISION for value in values)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in (model.graph, *model.graph.subgraphs()):
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs


def _rounds_to(node: ir.Node) -> ir.DataType | None:
    """The 16-bit float that a node casts to; None where it casts from the same, which is no longer one."""
    if node.op_type not in ("Cast", "CastLike"):
        return None
    source, kind = node.inputs[0], node.outputs[0].dtype
    return kind if kind in HALF_PRECISION and source is not None and source.dtype != kind else None


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    def read() -> ir.TensorProtocol:
        return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)

    shape = tensor.shape if isinstance(tensor.shape, ir.Shape) else ir.Shape(tensor.shape)
    return ir.LazyTensor(read, FLOAT, shape, cache=True, name=tensor.name)


def _widen_attributes(node: ir.Node) -> None:
    for attribute in list(node.attributes.values()):
        name, value = attribute.name, attribute.value
        if attribute.type == ir.AttributeType.TENSOR and value.dtype in HALF_PRECISION:
            node.attributes[name] = ir.AttrTensor(name, _widened(value))
        named = name in _TYPE_ATTRIBUTES or (name == "to" and node.op_type == "Cast")
        if named and attribute.type == ir.AttributeType.INT and value in HALF_PRECISION:
            node.attributes[name] = ir.AttrInt64(name, int(FLOAT))


def _cast(value: ir.Value, name: str, kind: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], {"to": int(kind)}, name=name)
    made = node.outputs[0]
    made.name, made.shape, made.type = name, value.shape, ir.TensorType(kind)
    return node


def _behind_input(model: ir.Model, value: ir.Value, kinds: list[ir.DataType]) -> None:
    """Casts an input, one type after the other, for all that read it."""
    users = list(value.uses())
    last, nodes = value, []
    for kind in kinds:
        nodes.append(_cast(last, f"{value.name}.{kind.name.lower()}", kind))
        last = nodes[-1].outputs[0]
    for user, index in users:
        user.replace_input_with(index, last)
    first = next(iter(model.graph), None)
    if first is None:
        model.graph.extend(nodes)
    else:
        model.graph.insert_before(first, nodes)


def _before_output(model: ir.Model, index: int, kind: ir.DataType) -> None:
    """Casts an output, which keeps its name."""
    value = model.graph.outputs[index]
    if value.is_graph_input():  # it has the type of its own accord
        return
    name = str(value.name)
    value.name = f"{name}.wide"
    node = _cast(value, name, kind)
    model.graph.append(node)
    model.graph.outputs[index] = node.outputs[0]
