"""Building blocks for graph passes: constants, new nodes with provenance, model-local functions, shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from xamc.ir.names import MASK_DOMAIN, MODULE_KEY, OPSET

Emit = Callable[..., ir.Value]


def dims(value: ir.Value | None) -> tuple[int | str | None, ...] | None:
    """Static sizes and symbol names of a value's shape; None when nothing is known."""
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


def static_dims(value: ir.Value | None) -> tuple[int, ...] | None:
    """The sizes of a value's shape when all of them are known numbers; None otherwise."""
    shape = dims(value)
    if shape is None:
        return None
    sizes = tuple(dim for dim in shape if isinstance(dim, int))
    return sizes if len(sizes) == len(shape) else None


def constant_array(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The contents of a value that a `Constant` node produces, whatever its form; None for anything else."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Constant" or node.domain != "":
        return None
    (name, attribute), *_ = node.attributes.items()
    if attribute.is_ref():
        return None
    match name:
        case "value":
            return np.asarray(attribute.as_tensor().numpy())
        case "value_int":
            return np.array(attribute.as_int(), np.int64)
        case "value_ints":
            return np.array(attribute.as_ints(), np.int64)
        case "value_float":
            return np.array(attribute.as_float(), np.float32)
        case "value_floats":
            return np.array(attribute.as_floats(), np.float32)
    return None


def scalar(value: ir.Value | None) -> float | None:
    """The number in a one-element constant; None for anything else."""
    array = constant_array(value)
    return None if array is None or array.size != 1 else float(array.reshape(())[()])


def constant_node(array: NDArray[np.generic], name: str) -> ir.Node:
    """A `Constant` node; int64 scalars and vectors take the readable forms value_int and value_ints."""
    if array.dtype == np.int64 and array.ndim == 0:
        attribute = ir.AttrInt64("value_int", int(array))
    elif array.dtype == np.int64 and array.ndim == 1:
        attribute = ir.AttrInt64s("value_ints", [int(x) for x in array])
    else:
        attribute = ir.AttrTensor("value", ir.tensor(array, name=name))
    node = ir.node("Constant", [], {attribute.name: attribute}, num_outputs=1)
    node.outputs[0].name = name
    node.outputs[0].shape = ir.Shape(array.shape)
    node.outputs[0].type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
    return node


def new_node(
    op: str,
    inputs: Sequence[ir.Value | None],
    outputs: Sequence[str],
    like: ir.Node | None = None,
    domain: str = "",
    **attributes: Any,
) -> ir.Node:
    """A node with named outputs that inherits the Hugging Face module path of `like`."""
    node = ir.node(op, inputs, attributes, domain=domain, num_outputs=len(outputs))
    for value, name in zip(node.outputs, outputs, strict=True):
        value.name = name
    if like is not None and MODULE_KEY in like.metadata_props:
        node.metadata_props[MODULE_KEY] = like.metadata_props[MODULE_KEY]
    return node


def take_over(new: ir.Value, old: ir.Value) -> None:
    """Makes `new` stand in for `old` everywhere: uses, graph outputs, name, type and shape."""
    name = old.name
    new.type, new.shape = old.type, old.shape
    new.metadata_props.update(old.metadata_props)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = f"{name}.replaced"
    new.name = name


def remove_dead(model: ir.Model) -> int:
    """Removes nodes whose outputs nothing reads, then functions that nothing calls; returns the nodes removed."""
    graph, removed = model.graph, 0
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
            removed += 1
    called = {node.op_identifier() for node in graph}
    for identifier in [identifier for identifier in model.functions if identifier not in called]:
        del model.functions[identifier]
    used = {"", *(function.domain for function in model.functions.values())}
    for domain in [domain for domain in model.opset_imports if domain not in used]:
        del model.opset_imports[domain]
    return removed


def add_function(model: ir.Model, function: ir.Function) -> None:
    """Adds a model-local function and its domain, once."""
    model.functions.setdefault(function.identifier(), function)
    model.opset_imports[function.domain] = 1


def make_function(
    op: str,
    inputs: Sequence[str],
    build: Callable[[Emit, Sequence[ir.Value]], ir.Value],
    domain: str = MASK_DOMAIN,
) -> ir.Function:
    """The model-local function `<domain>::<op>` of standard operators.

    Args:
        op: its name.
        inputs: names of its inputs.
        build: receives `emit(op, inputs, output_name, **attributes) -> Value` and the inputs, returns the output.
        domain: where it lives; anything else than `xamc` is an operator that a vendor has defined.
    """
    values = [ir.val(name) for name in inputs]
    nodes: list[ir.Node] = []

    def emit(kind: str, operands: Sequence[ir.Value], output: str, **attributes: Any) -> ir.Value:
        nodes.append(new_node(kind, operands, [output], **attributes))
        return nodes[-1].outputs[0]

    result = build(emit, values)
    graph = ir.Graph(values, [result], nodes=nodes, opset_imports={"": OPSET}, name=op)
    return ir.Function(domain, op, "", graph=graph, attributes=[])


def is_embedding_or_head(value: ir.Value) -> bool:
    """Whether a weight is looked up by token id, or makes the logits."""
    for reader, _ in value.uses():
        if reader.op_type == "Gather":
            return True
        if any(node.outputs[0].name == "logits" for node, _ in reader.outputs[0].uses()):
            return True
    return False


def infer_types_and_shapes(model: ir.Model) -> None:
    """Runs ONNX shape inference and fills in what the graph's values do not say yet; no weight is needed.

    Raises:
        onnx.shape_inference.InferenceError: the graph contradicts itself.
    """
    proto = onnx.shape_inference.infer_shapes(
        ir.serde.serialize_model(model), check_type=True, strict_mode=True, data_prop=True
    )
    known = {info.name: info for info in (*proto.graph.value_info, *proto.graph.output)}
    for node in model.graph:
        for value in node.outputs:
            info = known.get(value.name or "")
            if info is None or (value.shape is not None and value.type is not None):
                continue
            tensor = info.type.tensor_type
            if value.type is None:
                value.type = ir.TensorType(ir.DataType(tensor.elem_type))
            if value.shape is None and tensor.HasField("shape"):
                value.shape = ir.Shape([dim.dim_param or dim.dim_value for dim in tensor.shape.dim])


def write_reshape_sizes(graph: ir.Graph) -> None:
    """Gives every Reshape a constant of its own with every size written out, so that a rank can change it."""
    for node in list(graph):
        if node.op_type == "Reshape" and node.domain == "":
            shape = static_dims(node.outputs[0])
            sizes = constant_node(np.array(shape, np.int64), f"sizes_of.{node.outputs[0].name}")
            graph.insert_before(node, sizes)
            node.replace_input_with(1, sizes.outputs[0])
            node.attributes.pop("allowzero", None)
    for node in list(graph):
        if node.op_type == "Constant" and not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            graph.remove(node, safe=True)


def forget_shapes(values: Iterable[ir.Value]) -> None:
    """Drops recorded shapes that a change upstream has made wrong, so that inference fills them again."""
    for value in values:
        value.shape = None
