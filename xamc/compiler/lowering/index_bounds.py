"""Keeps indices inside their tables: compiled gathers and scatters check nothing, and a bad index reads foreign memory.

Indices that are a graph input get a bound, which the runtime checks and names; computed ones are clamped in the graph:

    indices ─► Gather(data)      becomes      indices ─► Max(-N) ─► Min(N - 1) ─► Gather(data)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from xamc.compiler.errors import InputError, UnsupportedError

_SAME = frozenset(("Identity", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Flatten", "Slice"))


def bound_indices(model: ir.Model, symbols: Mapping[str, tuple[int, int]] | None = None) -> dict[str, int]:
    """Clamps computed indices in place.

    Args:
        model: changed in place.
        symbols: extent that varies → its smallest and largest value.

    Raises:
        InputError: E1152 a constant index that lies outside of its table.
        UnsupportedError: E1154 computed indices in an operator set without integer Min and Max; E1193 computed indices
            into an axis whose extent varies.

    Returns:
        Graph input → exclusive upper bound of its elements, for inputs that index a table; they are at least 0.
    """
    inputs = {str(value.name) for value in model.graph.inputs}
    limits: dict[str, int] = {}
    for node in list(model.graph.all_nodes()):
        found = _extents(node)
        if found is None:
            continue
        indices = node.inputs[1]
        assert indices is not None
        source = _source(indices)
        if source.const_value is not None:
            # an extent that varies is at least its smallest value, and one that is computed at least 1
            _check_constant(
                source, [dim if isinstance(dim, int) else (symbols or {}).get(dim, (1, 1))[0] for dim in found]
            )
            continue
        extents = [dim for dim in found if isinstance(dim, int)]
        if len(extents) < len(found):
            raise UnsupportedError(
                "E1193",
                f"{node.name or node.outputs[0].name} ({node.op_type}) looks up computed indices in an axis whose "
                "extent varies; they can't be kept inside",
                fix="fix that extent in frontend.shape",
            )
        if source.name in inputs and source.producer() is None and len(extents) == 1:
            limits[str(source.name)] = min(limits.get(str(source.name), extents[0]), extents[0])
            continue
        if model.graph.opset_imports.get("", 1) < 12:
            raise UnsupportedError(
                "E1154",
                f"{node.name or node.outputs[0].name} ({node.op_type}) looks up computed indices, which operator sets "
                "before 12 can't keep inside the table",
                fix="export with opset_version 13 or later, or convert with onnx.version_converter",
            )
        _clamp(node, indices, extents)
    return limits


def _extents(node: ir.Node) -> list[int | str] | None:
    """Extents of the axes that a node's second input indexes, symbols by name; None for other nodes."""
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


def _check_constant(value: ir.Value, extents: list[int]) -> None:
    array = value.const_value.numpy() if value.const_value is not None else np.zeros(0)
    if array.size and (array.max() >= max(extents) or array.min() < -max(extents)):
        raise InputError(
            "E1152",
            f"{value.name} holds the index {int(array.max())}, its table has {max(extents)} entries",
            "export the model again",
        )


def _clamp(node: ir.Node, indices: ir.Value, extents: list[int]) -> None:
    """Puts Max and Min before a node's indices."""
    dtype = np.int32 if indices.dtype == ir.DataType.INT32 else np.int64
    bounds: NDArray[np.signedinteger[Any]] = np.array(extents if len(extents) > 1 else extents[0], dtype)
    nodes: list[ir.Node] = []
    value = indices
    for operator, limit in (("Max", np.negative(bounds)), ("Min", bounds - 1)):
        constant = ir.node("Constant", [], {"value": ir.tensor(np.asarray(limit, dtype))})
        clamped = ir.node(operator, [value, constant.outputs[0]])
        for made, kind in ((constant, "bound"), (clamped, "index")):
            made.outputs[0].name = made.name = f"{node.name or node.outputs[0].name}.{operator.lower()}_{kind}"
        nodes += [constant, clamped]
        value = clamped.outputs[0]
        value.shape, value.type = indices.shape, ir.TensorType(indices.dtype or ir.DataType.INT64)
    graph = node.graph
    assert graph is not None
    graph.insert_before(node, nodes)
    node.replace_input_with(1, value)
