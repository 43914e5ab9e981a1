"""Rotary embedding by plain operators, from a table of cos and sin that belongs to the weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from xamc.errors import InternalError
from xamc.ir.names import WEIGHT_ROLE
from xamc.ir.onnx_graph import (
    constant_node,
    dims,
    infer_types_and_shapes,
    new_node,
    remove_dead,
    static_dims,
    take_over,
)
from xamc.ir.program import Program
from xamc.ir.weights.lazy import ArrayTensor
from xamc.model.config import ModelConfig
from xamc.model.rope import rope_table
from xamc.passes.protocol import Arrays, PassReport, Tensors

_TABLES = ("rope_cos", "rope_sin")


class RopeTables:
    """Replaces `RotaryEmbedding` by the arithmetic of Llama's half-split form, and its tables by weights.

    before: y = RotaryEmbedding(x [1, H, T, D], rope_cos [S, D/2], rope_sin [S, D/2], positions [1, T])
    after:  cos = Unsqueeze(Gather(rope_cos [S, D], positions), 1)           [1, 1, T, D], once for all layers
            sin = Unsqueeze(Gather(rope_sin [S, D], positions), 1)
            y = Add(Mul(x, cos), Mul(Concat(Neg(x[..., D/2:]), x[..., :D/2]), sin))

    The tables hold cat(freqs, freqs) for the positions 0 to S - 1 of the graph's length S, by
    `xamc.model.rope.rope_table`. With dynamic NTK scaling the base grows with the length reached once that exceeds
    `max_position_embeddings`; a fixed table has one base, and here it is the one that transformers' rule gives for
    the graph's length S. A longer graph than `max_position_embeddings` therefore equals transformers only when the
    sequence has S tokens, and a decode graph of another length than the prefill graph rotates with another base than
    the keys in its cache were rotated with. `accepts` says so in proofs.

    Args:
        rows: positions of the table, so that graphs of several lengths can share one; where the base depends on the
            length, and for None, the graph's own length S.
    """

    name = "rope_table"
    tolerance = "reassociated"

    def __init__(self, rows: int | None = None) -> None:
        self._rows = rows or 0
        self._length = 0
        # set where the base is that of one length
        self._base: ModelConfig | None = None

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        model, graph, config = program.model, program.model.graph, program.config
        values = {value.name: value for value in graph.inputs}
        shape = static_dims(values.get("rope_cos"))
        if shape is None or WEIGHT_ROLE in values["rope_cos"].metadata_props:
            raise _unexpected("the graph has no input rope_cos of static length")
        self._length = shape[0]
        grows = config.rope.kind == "dynamic"
        self._base = config if grows and shape[0] > config.max_position_embeddings else None
        rotations = [node for node in graph if node.op_type == "RotaryEmbedding" and node.domain == ""]
        rows = max(shape[0], self._rows)
        if grows and rows > config.max_position_embeddings:
            rows = shape[0]
        halves = rope_table(config, rows, length_reached=shape[0])
        for name, half in zip(_TABLES, halves, strict=True):
            _make_weight(program, values[name], np.concatenate([half, half], axis=-1))
        gathered: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        for node in rotations:
            place = node.outputs[0].name or "RotaryEmbedding"
            positions = node.inputs[3] if len(node.inputs) > 3 else None
            settings = {name: node.attributes.get_int(name, 0) for name in ("interleaved", "rotary_embedding_dim")}
            size = dims(node.inputs[0])
            if positions is None or any(settings.values()) or size is None or len(size) != 4:
                raise _unexpected(f"{place} is no half-split rotation of whole heads by positions ({settings}, {size})")
            if positions not in gathered:
                gathered[positions] = _gather(graph, node, positions, [values[name] for name in _TABLES])
            _rotate(graph, node, *gathered[positions], config.head_dim // 2)
            report.count("rotation")
        remove_dead(model)
        infer_types_and_shapes(model)
        return report

    def accepts(self, feeds: Tensors) -> bool:
        """With a dynamic base beyond the trained length, only calls of that base; otherwise every call.

        Which base a call has shows in the table that it is fed with before the pass.
        """
        if self._base is None:
            return True
        cos, _ = rope_table(self._base, len(feeds["rope_cos"]), length_reached=self._length)
        return np.array_equal(feeds["rope_cos"], cos)

    def adapt(self, feeds: Tensors, fetches: Tensors) -> tuple[Arrays, Arrays]:
        """The same call without tables."""
        return {name: np.asarray(array) for name, array in feeds.items() if name not in _TABLES}, dict(fetches)


def _make_weight(program: Program, value: ir.Value, table: NDArray[np.float32]) -> None:
    """Turns the data input `value` into the weight `table`, behind all other inputs."""
    assert value.name is not None
    value.shape = ir.Shape(table.shape)
    value.metadata_props[WEIGHT_ROLE] = "float32"
    program.model.graph.inputs.remove(value)
    program.model.graph.inputs.append(value)
    # a program without any weights is a graph alone, and stays one
    if program.weights:
        program.weights[value.name] = ArrayTensor(table)


def _gather(graph: ir.Graph, before: ir.Node, positions: ir.Value, tables: list[ir.Value]) -> tuple[ir.Value, ir.Value]:
    """cos and sin [1, 1, T, D] of the call's positions."""
    axis = constant_node(np.array([1], np.int64), "rope_heads_axis")
    graph.insert_before(before, axis)
    results = []
    for table, name in zip(tables, ("cos", "sin"), strict=True):
        rows = new_node("Gather", [table, positions], [f"{name}_rows"], axis=0)
        lifted = new_node("Unsqueeze", [rows.outputs[0], axis.outputs[0]], [name])
        graph.insert_before(before, [rows, lifted])
        results.append(lifted.outputs[0])
    return results[0], results[1]


def _rotate(graph: ir.Graph, node: ir.Node, cos: ir.Value, sin: ir.Value, half: int) -> None:
    """x * cos + rotate_half(x) * sin in place of `node`, where rotate_half(x) = cat(-x[..., D/2:], x[..., :D/2])."""
    x, stem = node.inputs[0], node.outputs[0].name
    bounds = {n: constant_node(np.array([n], np.int64), f"{stem}.at_{n}") for n in (0, half, 2 * half)}
    axis = constant_node(np.array([3], np.int64), f"{stem}.axis")

    def part(start: int, stop: int, name: str) -> ir.Node:
        operands = [x, bounds[start].outputs[0], bounds[stop].outputs[0], axis.outputs[0]]
        return new_node("Slice", operands, [f"{stem}.{name}"], like=node)

    low, high = part(0, half, "low"), part(half, 2 * half, "high")
    negative = new_node("Neg", [high.outputs[0]], [f"{stem}.negative"], like=node)
    turned = new_node("Concat", [negative.outputs[0], low.outputs[0]], [f"{stem}.turned"], like=node, axis=3)
    along = new_node("Mul", [x, cos], [f"{stem}.along"], like=node)
    across = new_node("Mul", [turned.outputs[0], sin], [f"{stem}.across"], like=node)
    total = new_node("Add", [along.outputs[0], across.outputs[0]], [f"{stem}.rotated"], like=node)
    graph.insert_before(node, [*bounds.values(), axis, low, high, negative, turned, along, across, total])
    take_over(total.outputs[0], node.outputs[0])


def _unexpected(what: str) -> InternalError:
    return InternalError(
        "E1322",
        f"rope_table: {what}",
        fix="run the pass once, after phase has fixed the shapes; otherwise report this model",
    )
