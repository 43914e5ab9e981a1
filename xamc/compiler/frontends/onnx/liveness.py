"""How much memory the values of a static graph need at once, from shapes alone."""

from __future__ import annotations

import math

import onnx_ir as ir


def peak_activation_bytes(model: ir.Model) -> int:
    """Bytes of the inputs, outputs and values between nodes that live at the same time, at most.

    Nodes run in the graph's order, and a value lives from the node that makes it to the last one that reads it; inputs
    and outputs live throughout. Weights and constants are not counted. An upper bound: views count as copies.

    Args:
        model: a graph in which every shape is static and weights are initializers.
    """
    graph = model.graph
    nodes = [node for node in graph if node.op_type != "Constant"]
    throughout = {id(value): value for value in (*graph.inputs, *graph.outputs)}
    last = {id(value): index for index, node in enumerate(nodes) for value in _read(node)}
    ending: dict[int, list[ir.Value]] = {}
    live = sum(map(_bytes, throughout.values()))
    peak = live
    for index, node in enumerate(nodes):
        for value in node.outputs:
            if id(value) not in throughout:
                live += _bytes(value)
                ending.setdefault(max(last.get(id(value), index), index), []).append(value)
        peak = max(peak, live)
        live -= sum(map(_bytes, ending.pop(index, ())))
    return peak


def _read(node: ir.Node) -> list[ir.Value]:
    """Inputs of a node, and what its subgraphs read."""
    inner = [value for graph in _subgraphs(node) for other in graph.all_nodes() for value in other.inputs]
    return [value for value in (*node.inputs, *inner) if value is not None]


def _subgraphs(node: ir.Node) -> list[ir.Graph]:
    return [attr.as_graph() for attr in node.attributes.values() if attr.type == ir.AttributeType.GRAPH]


def _bytes(value: ir.Value) -> int:
    if value.shape is None or value.dtype is None:  # an optional output that nobody asked for
        return 0
    itemsize: float = value.dtype.itemsize
    return math.ceil(math.prod(int(dim) for dim in value.shape) * itemsize)
