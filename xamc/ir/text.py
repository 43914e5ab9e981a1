"""A graph as text that a person can read and a diff can compare: for --dump-ir and the structural goldens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from xamc.ir.names import ALIAS_KEY, MODULE_KEY
from xamc.ir.onnx_graph import constant_array, dims
from xamc.ir.program import Program

# stash_type 1 (float32) and allowzero 0 are what every node of ours has
_DEFAULTS = {"stash_type": 1, "allowzero": 0, "interleaved": 0, "is_causal": 0}


def program_text(program: Program) -> str:
    """The whole program: signature, weights, body grouped by Hugging Face module, outputs, functions."""
    graph = program.model.graph
    lines = [
        "inputs",
        *_declarations(program.data_inputs()),
        "weights",
        *_declarations(program.weight_inputs()),
        "body",
    ]
    module = None
    for node in graph:
        if node.op_type == "Constant" and node.domain == "" and _inline(node.outputs[0]) is not None:
            continue
        here = node.metadata_props.get(MODULE_KEY)
        if here != module:
            module = here
            lines.append(f"  # {module or 'no module'}")
        lines.append(f"  {_node_text(node)}")
    lines += ["outputs", *_declarations(graph.outputs)]
    for function in program.model.functions.values():
        lines.append(f"function {function.domain}::{function.name}({', '.join(str(v.name) for v in function.inputs)})")
        lines += [f"  {_node_text(node)}" for node in function]
        lines.append(f"  return {', '.join(str(value.name) for value in function.outputs)}")
    return "\n".join(lines) + "\n"


def _declarations(values: Iterable[ir.Value]) -> Iterator[str]:
    for value in values:
        alias = value.metadata_props.get(ALIAS_KEY)
        yield f"  {value.name}: {_type_text(value)}" + (f" = {alias}, in place" if alias else "")


def _type_text(value: ir.Value) -> str:
    shape = dims(value)
    dtype = value.dtype.name.lower() if value.dtype is not None else "?"
    return dtype + ("[?]" if shape is None else f"[{', '.join(str(dim) for dim in shape)}]")


def _inline(value: ir.Value) -> str | None:
    """A small constant as it is written where it is read."""
    array = constant_array(value)
    if array is None or array.size > 8:
        return None
    return str(array.tolist())


def _node_text(node: ir.Node) -> str:
    outputs = ", ".join(
        f"{value.name}: {_type_text(value)}" if value.type else str(value.name) for value in node.outputs
    )
    operands = ["-" if value is None else _inline(value) or str(value.name) for value in node.inputs]
    for name, attribute in sorted(node.attributes.items()):
        text = _attribute_text(attribute)
        if attribute.is_ref() or attribute.value != _DEFAULTS.get(name):
            operands.append(f"{name}={text}")
    prefix = f"{node.domain}::" if node.domain else ""
    return f"{outputs} = {prefix}{node.op_type}({', '.join(operands)})"


def _attribute_text(attribute: ir.Attr) -> str:
    if attribute.is_ref():
        return f"@{attribute.ref_attr_name}"
    if attribute.type == ir.AttributeType.FLOAT:
        return str(np.float32(attribute.as_float()))
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return f"{tensor.dtype.name.lower()}{list(tensor.shape)}"
    if isinstance(attribute.value, tuple | list):
        return str(list(attribute.value))
    return str(attribute.value)
