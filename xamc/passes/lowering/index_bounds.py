"""Keeps indices inside their tables: compiled gathers and scatters check nothing, and a bad index reads foreign memory.

Indices that are a graph input get a bound, which the runtime checks and names; computed ones, and all in an axis whose
dimension varies, are clamped in the graph:

    indices ─► Gather(data)      becomes      indices ─► Max(-N) ─► Min(N - 1) ─► Gather(data)

Those below 0 count from the end of the axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from xamc.errors import InputError, UnsupportedError

_SAME = frozenset(("Identity", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Flatten", "Slice"))


def bound_indices(model: ir.Model, symbols: Mapping[str, tuple[int, int]] | None = None) -> dict[str, int]:
    """Clamps computed indices in place.

    Args:
        model: changed in place.
        symbols: dimension that varies → its smallest and largest value.

    Raises:
        InputError: E1152 a constant index that lies outside of its table.
        UnsupportedError: E1154 computed indices in an operator set without integer Min and Max.

    Returns:
        Graph input → N, for inputs that index a table; their elements lie in [-N, N).
    """
    inputs = {str(value.name) for value in model.graph.inputs}
    limits: dict[str, int] = {}
    for node in list(model.graph.all_nodes()):
        found = _dims(node)
        if found is None:
            continue
        indices = node.inputs[1]
        assert indices is not None
        source = _source(indices)
        if source.const_value is not None:
            # a dimension that varies is at least its smallest value, and one that is computed at least 1
            _check_constant(
                source, [dim if isinstance(dim, int) else (symbols or {}).get(dim, (1, 1))[0] for dim in found]
            )
            continue
        dims = [dim for dim in found if isinstance(dim, int)]
        whole = len(dims) == len(found)
        if source.name in inputs and source.producer() is None and whole and len(dims) == 1:
            limits[str(source.name)] = min(limits.get(str(source.name), dims[0]), dims[0])
            continue
        if model.graph.opset_imports.get("", 1) < 12:
            raise UnsupportedError(
                "E1154",
                f"{node.name or node.outputs[0].name} ({node.op_type}) looks up computed indices, which operator sets "
                "before 12 can't keep inside the table",
                fix="export with opset_version 13 or later, or convert with onnx.version_converter",
            )
        _clamp(node, indices, dims if whole else None)
    return limits


def _dims(node: ir.Node) -> list[int | str] | None:
    """Dimensions of the axes that a node's second input indexes, symbols by name; None for other nodes."""
    if node.op_type not in ("Gather", "GatherElements", "GatherND", "Scatter", "ScatterElements", "ScatterND"):
        return None
    data, indices = node.inputs[0], node.inputs[1]
    assert data is not None and indices is not None
    shape: list[int | str] = [dim if isinstance(dim, int) else str(dim) for dim in data.shape or ()]
    if node.op_type in ("GatherND", "ScatterND"):
        start = node.attributes.get_int("batch_dims", 0)
        depth = (indices.shape or [0])[-1]
        return shape[start : start + int(depth)]
    axis = node.attributes.get_int("axis", 0)
    return [shape[axis]] if shape else ["unknown"]


def _source(value: ir.Value) -> ir.Value:
    """The value whose elements are the same numbers."""
    producer = value.producer()
    while producer is not None and producer.op_type in _SAME and producer.inputs[0] is not None:
        value = producer.inputs[0]
        producer = value.producer()
    return value


def _check_constant(value: ir.Value, dims: list[int]) -> None:
    array = value.const_value.numpy() if value.const_value is not None else np.zeros(0)
    if array.size and (array.max() >= max(dims) or array.min() < -max(dims)):
        raise InputError(
            "E1152",
            f"{value.name} holds the index {int(array.max())}, its table has {max(dims)} entries",
            "export the model again",
        )


def _axes(node: ir.Node) -> NDArray[np.int64]:
    """The axes that a node's second input indexes: one, or a vector of them."""
    if node.op_type not in ("GatherND", "ScatterND"):
        return np.array(node.attributes.get_int("axis", 0), np.int64)
    indices = node.inputs[1]
    depth = int((indices.shape if indices is not None and indices.shape is not None else [0])[-1])
    start = node.attributes.get_int("batch_dims", 0)
    return np.arange(start, start + depth, dtype=np.int64)


def _clamp(node: ir.Node, indices: ir.Value, dims: list[int] | None) -> None:
    """Puts Max and Min before a node's indices; without `dims` by those of the call."""
    dtype = np.int32 if indices.dtype == ir.DataType.INT32 else np.int64
    nodes: list[ir.Node] = []
    name = node.name or node.outputs[0].name

    def add(op: str, inputs: list[ir.Value | None], called: str, **attributes: Any) -> ir.Value:
        made = ir.node(op, inputs, attributes, name=f"{name}.{called}")
        made.outputs[0].name = made.name
        nodes.append(made)
        return made.outputs[0]

    def constant(array: Any, called: str) -> ir.Value:
        return add("Constant", [], called, value=ir.tensor(np.asarray(array)))

    if dims is not None:
        bounds: NDArray[np.signedinteger[Any]] = np.array(dims if len(dims) > 1 else dims[0], dtype)
        low, high = (
            constant(np.asarray(np.negative(bounds), dtype), "low"),
            constant(np.asarray(bounds - 1, dtype), "high"),
        )
    else:
        shape = add("Shape", [node.inputs[0]], "shape")
        count = add("Gather", [shape, constant(_axes(node), "axes")], "extents", axis=0)
        if dtype == np.int32:
            count = add("Cast", [count], "extents_as_int32", to=int(ir.DataType.INT32))
        low, high = add("Neg", [count], "low"), add("Sub", [count, constant(np.array(1, dtype), "one")], "high")
    value = indices
    for operator, bound in (("Max", low), ("Min", high)):
        value = add(operator, [value, bound], f"{operator.lower()}_index")
        value.shape, value.type = indices.shape, ir.TensorType(indices.dtype or ir.DataType.INT64)
    graph = node.graph
    assert graph is not None
    graph.insert_before(node, nodes)
    node.replace_input_with(1, value)
