"""`mod.json` of a generic graph: its inputs, outputs, parameters, constants and nodes, for people and other tools.

Tensors, constants and nodes are written as in the `mod.json` of a language model's rank.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from xamc.artifact.onnx_manifest import OnnxManifest
from xamc.targets.onnx.names import FUNCTION

FORMAT = "xamc.graph"
VERSION = 1
_SHOWN_ELEMENTS = 16


def graph_json(model: ir.Model, manifest: OnnxManifest) -> str:
    """The text: one line per node, in the order of execution; equal graphs give equal bytes."""
    names = set(manifest.parameters)
    parameters = [_value(value) for value in model.graph.inputs if value.name in names]
    head: Mapping[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "kind": manifest.kind,
        "name": manifest.name,
        "target": manifest.target,
        "executes_on": manifest.executes_on,
        "compute_dtype": manifest.compute_dtype,
        "weight_dtype": manifest.weight_dtype,
        "opset": model.graph.opset_imports.get("", 1),
        "code": {"library": manifest.code_file, "params": manifest.params_file, "function": FUNCTION},
        "isa": manifest.cpu.mcpu,
    }
    lists: Mapping[str, list[Any]] = {
        "inputs": [_tensor(tensor) for tensor in manifest.graph_inputs],
        "outputs": [_tensor(tensor) for tensor in manifest.graph_outputs],
        "params": parameters,
        "constants": [_constant(name, value) for name, value in sorted(model.graph.initializers.items())],
        "nodes": [_node(node) for node in model.graph],
    }
    parts = [f" {json.dumps(key)}: {_dump(value)}" for key, value in head.items()]
    for key, items in lists.items():
        body = ",\n".join(f"  {_dump(item)}" for item in items)
        parts.append(f" {json.dumps(key)}: [\n{body}\n ]" if items else f" {json.dumps(key)}: []")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=False)


def _tensor(tensor: Any) -> dict[str, Any]:
    fields = {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype}
    if tensor.least:
        fields["least"] = list(tensor.least)
    if tensor.symbols:
        fields["symbols"] = list(tensor.symbols)
    return fields if tensor.limit is None else fields | {"limit": tensor.limit}


def _value(value: ir.Value) -> dict[str, Any]:
    shape = None if value.shape is None else [dim if isinstance(dim, int) else None for dim in value.shape]
    dtype = None if value.dtype is None else value.dtype.numpy().name
    return {"name": value.name, "shape": shape, "dtype": dtype}


def _constant(name: str, value: ir.Value) -> dict[str, Any]:
    tensor = value.const_value
    assert tensor is not None
    array = tensor.numpy()
    fields = {"name": name, "shape": list(array.shape), "dtype": array.dtype.name}
    return fields | {"data": _plain(array.reshape(-1))} if array.size <= _SHOWN_ELEMENTS else fields


def _node(node: ir.Node) -> dict[str, Any]:
    attributes = {name: _attribute(value) for name, value in sorted(node.attributes.items())}
    return {
        "op": node.op_type,
        "domain": node.domain or "ai.onnx",
        "name": node.name,
        "inputs": [value.name if value is not None else None for value in node.inputs],
        "outputs": [_value(value) for value in node.outputs],
        "attributes": attributes,
    }


def _attribute(attribute: Any) -> Any:
    value = attribute.value
    if attribute.type in (ir.AttributeType.TENSOR,):
        array = value.numpy()
        shown = {"data": _plain(array.reshape(-1))} if array.size <= _SHOWN_ELEMENTS else {}
        return {"shape": list(array.shape), "dtype": array.dtype.name, **shown}
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        graphs = [value] if attribute.type == ir.AttributeType.GRAPH else list(value)
        return [[_node(node) for node in graph] for graph in graphs]
    return _plain(value)


def _plain(value: Any) -> Any:
    """JSON has no infinities: they are written as text."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value if isinstance(value, int | float | str | bool) or value is None else str(value)
