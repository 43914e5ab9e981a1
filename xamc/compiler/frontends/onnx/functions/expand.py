"""Writes operators out as the functions that ONNX defines them by, where TVM's importer has no form of its own.

    x ─► Celu ─► y      becomes      x ─► Div ─► Elu ─► Mul ─► y

The bodies are onnx's own; which of them depend on the types of inputs, onnx decides.
"""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

# they register bodies
from xamc.compiler.frontends.onnx.functions import known_sizes, recurrent, resize, sequence_operators  # noqa: F401
from xamc.compiler.frontends.onnx.functions.bodies import BODIES
from xamc.passes.lowering.onnx_operators import RANDOM, STANDARD_DOMAINS, obstacle

_DOMAIN = "xamc.expanded"
# a body may hold operators that are functions themselves
_MOST_ROUNDS = 6
# the importer makes up the second and third output of these
_ONE_OUTPUT = frozenset(("LayerNormalization", "BatchNormalization", "Dropout", "MaxPool"))


def expand_functions(model: ir.Model) -> bool:
    """Replaces nodes without a lowering by their function bodies, in place; False when there were none.

    Args:
        model: types and shapes inferred, as far as they can be.
    """
    version = model.graph.opset_imports.get("", 1)
    changed = False
    for _ in range(_MOST_ROUNDS):
        count = 0
        for node in list(model.graph.all_nodes()):
            function = _body(node, version) if _needs_body(node) else None
            if function is None:
                continue
            function.domain, function.name = _DOMAIN, f"{node.op_type}_{len(model.functions)}"
            made = ir.from_proto(function)
            model.functions[made.identifier()] = made
            node.domain, node.op_type = function.domain, function.name
            node.version = None
            count += 1
        if not count:
            break
        changed = True
        model.graph.opset_imports[_DOMAIN] = 1
        passes.InlinePass()(model)
        model.graph.opset_imports.pop(_DOMAIN, None)
        passes.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    return changed


def expandable(domain: str, name: str, version: int) -> bool:
    """Whether ONNX defines an operator by a function, so that it may be written out."""
    if domain not in STANDARD_DOMAINS or name in RANDOM:
        return False
    if name in BODIES:
        return True
    schema = _schema(domain, name, version)
    return schema is not None and bool(schema.has_function or schema.has_context_dependent_function)


def _needs_body(node: ir.Node) -> bool:
    if node.domain not in STANDARD_DOMAINS:
        return False
    if node.op_type in _ONE_OUTPUT and any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return True
    if node.op_type in BODIES:
        return True
    if node.op_type == "GroupNormalization":  # onnx infers no shape for it whole
        return True
    if node.op_type == "RMSNormalization" and _of_several_axes(node):
        return True
    return obstacle(node.domain, node.op_type) is not None and node.op_type not in RANDOM


def _of_several_axes(node: ir.Node) -> bool:
    """Whether a normalization is of more than the last axis, or may be; TVM's loops are for that one."""
    value = node.inputs[0]
    rank = len(value.shape) if value is not None and value.shape is not None else None
    axis = node.attributes.get_int("axis", -1)
    return axis != -1 and (rank is None or axis != rank - 1)


def _schema(domain: str, name: str, version: int) -> Any:
    try:
        return onnx.defs.get_schema(name, version, "" if domain == "ai.onnx" else domain)
    except onnx.defs.SchemaError:
        return None


def _body(node: ir.Node, version: int) -> Any:
    """The function's proto, its operators those of the graph's operator set; None when there is none."""
    if node.op_type in BODIES:
        own = BODIES[node.op_type](node)
        if own is not None:
            own.opset_import[0].version = version
            return own
    schema = _schema(node.domain, node.op_type, version)
    if schema is None:
        return None
    text = b""
    if schema.has_function:
        fitting = [known for known in schema.function_opset_versions if known <= version]
        if fitting:
            text = schema.get_function_with_opset_version(max(fitting))
    if not text and schema.has_context_dependent_function:
        fitting = [known for known in schema.context_dependent_function_opset_versions if known <= version]
        types = [_type(value) for value in node.inputs]
        if fitting and None not in types:
            proto = ir.to_proto(node).SerializeToString()
            text = schema.get_context_dependent_function_with_opset_version(max(fitting), proto, types)
    if not text:
        return None
    function = onnx.FunctionProto()
    function.ParseFromString(text)
    if any(entry.domain not in STANDARD_DOMAINS for entry in function.opset_import):
        return None
    # an optional output that the node leaves out has no producer in the body
    del function.output[len(node.outputs) :]
    made = {name for inner in function.node for name in inner.output} | set(function.input)
    if not made.issuperset(function.output):
        return None
    del function.opset_import[:]
    function.opset_import.append(onnx.helper.make_opsetid("", version))
    _fill_attributes(function, schema)
    return function


def _fill_attributes(function: Any, schema: Any) -> None:
    """Attributes that a node may leave out have their defaults in the schema, not in the function."""
    for name in list(function.attribute):
        default = schema.attributes[name].default_value if name in schema.attributes else None
        if default is not None and default.name:
            function.attribute.remove(name)
            function.attribute_proto.append(default)


def _type(value: ir.Value | None) -> bytes | None:
    if value is None:
        return b""
    if value.type is None:
        return None
    proto = onnx.TypeProto()
    ir.serde.serialize_type_into(proto, value.type)
    if value.shape is not None:
        ir.serde.serialize_shape_into(proto, value.shape)
    serialized: bytes = proto.SerializeToString()
    return serialized
