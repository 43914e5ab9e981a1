"""Turns past/present into a cache of fixed capacity that is updated in place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from xamc.errors import InternalError
from xamc.ir.names import ALIAS_KEY, MASK_DOMAIN, MASK_OP
from xamc.ir.onnx_graph import infer_types_and_shapes, new_node, remove_dead, take_over
from xamc.ir.program import Program
from xamc.model.kv_cache import past_key, past_value
from xamc.passes.protocol import Arrays, PassReport, Tensors

# What the unused part of a cache holds in proofs: large enough that reading it would be seen.
_POISON = 37.0
_SLACK = 3


def cache_key(layer: int) -> str:
    """Name of the graph input that holds a layer's keys, [B, Hkv, C, D], of which `write_index` tokens are valid."""
    return f"cache_key.{layer}"


def cache_value(layer: int) -> str:
    """Name of the graph input that holds a layer's values, [B, Hkv, C, D]."""
    return f"cache_value.{layer}"


def updated_key(layer: int) -> str:
    """Name of the graph output that shares the memory of `cache_key(layer)`."""
    return f"updated_key.{layer}"


def updated_value(layer: int) -> str:
    """Name of the graph output that shares the memory of `cache_value(layer)`."""
    return f"updated_value.{layer}"


class KvCache:
    """Rewrites every layer's growing past/present to a cache of capacity C and a write position per row.

        before: y, present_key, present_value = Attention(q, k, v, mask, past_key, past_value)
        after:  updated_key   = TensorScatter(cache_key, k, write_index)       writes in place
                updated_value = TensorScatter(cache_value, v, write_index)
                y = Attention(q, updated_key, updated_value, mask, nonpad_kv_seqlen = write_index + S)

    `write_index` int64 [B] is the number of tokens already in each row's cache. Causal attention with
    `nonpad_kv_seqlen` is aligned per row to its end, so a right-padded ragged batch needs no mask: padding is written
    behind a row's tokens, seen only by padding, and overwritten by the next call. Outputs name the input whose memory
    they share in their metadata (`xamc.alias`).
    """

    name = "kv_cache"
    tolerance = "reassociated"

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        model, graph = program.model, program.model.graph
        inputs = {value.name: value for value in graph.inputs}
        if past_key(0) not in inputs:
            raise InternalError(
                "E1302",
                "kv_cache: the graph has no past_key.0; its caches have been rewritten already",
                fix="list the pass once in the target's passes",
            )
        write_index = ir.val("write_index", dtype=ir.DataType.INT64, shape=["batch"])
        graph.inputs.insert(list(inputs).index("position_ids") + 1, write_index)

        first = next(iter(graph))
        capacity = _size_of(graph, first, inputs[past_key(0)], 2, "kv_capacity")
        length = _size_of(graph, first, inputs["input_ids"], 1, "new_tokens")
        nonpad = new_node("Add", [write_index, length], ["nonpad_kv_seqlen"])
        graph.insert_before(first, nonpad)

        for layer in range(program.config.num_layers):
            node = _attention_of(inputs, layer)
            updated = []
            names = (
                (past_key, cache_key, updated_key, 1),
                (past_value, cache_value, updated_value, 2),
            )
            for past, cache, update, operand in names:
                value = inputs[past(layer)]
                value.name = cache(layer)
                old = value.shape
                assert old is not None
                value.shape = ir.Shape([old[0], old[1], "capacity", old[3]])
                scatter = new_node(
                    "TensorScatter",
                    [value, node.inputs[operand], write_index],
                    [update(layer)],
                    like=node,
                    axis=-2,
                    mode="linear",
                )
                scatter.outputs[0].type, scatter.outputs[0].shape = value.type, value.shape
                scatter.outputs[0].metadata_props[ALIAS_KEY] = cache(layer)
                graph.insert_before(node, scatter)
                index = [output.name for output in graph.outputs].index(node.outputs[operand].name)
                graph.outputs[index] = scatter.outputs[0]
                updated.append(scatter.outputs[0])
            mask = node.inputs[3] if len(node.inputs) > 3 else None
            attention = ir.node(
                "Attention",
                [node.inputs[0], *updated, mask, None, None, nonpad.outputs[0]],
                dict(node.attributes),
                num_outputs=1,
            )
            attention.metadata_props.update(node.metadata_props)
            graph.insert_before(node, attention)
            take_over(attention.outputs[0], node.outputs[0])
            report.count("attention")
        for node in graph:
            if (node.domain, node.op_type) == (MASK_DOMAIN, MASK_OP):
                # key j stands at position j of the cache, whose length is now the capacity
                node.replace_input_with(1, capacity)
                node.outputs[0].shape = ir.Shape(["batch", 1, "seq", "capacity"])
                report.count("mask")
        remove_dead(model)
        infer_types_and_shapes(model)
        return report

    def adapt(self, feeds: Tensors, fetches: Tensors) -> tuple[Arrays, Arrays]:
        """The same call on a cache with room for more tokens than are used."""
        past = feeds[past_key(0)].shape[2]
        batch, length = feeds["input_ids"].shape
        capacity = past + length + _SLACK
        new_feeds: Arrays = {"write_index": np.full(batch, past, np.int64)}
        for name, array in feeds.items():
            renamed = _renamed(name)
            new_feeds[renamed] = np.asarray(array) if renamed == name else _padded(array, capacity, _POISON)
        expected: Arrays = {}
        for name, array in fetches.items():
            renamed = _renamed(name)
            expected[renamed] = np.asarray(array) if renamed == name else _padded(array, capacity, _POISON)
        return new_feeds, expected

    def merge_rows(self, rows: Sequence[tuple[Tensors, Tensors]]) -> tuple[Arrays, Arrays]:
        """One right-padded ragged call out of several calls of one row each, which may differ in past and length.

        Expected outputs are NaN where only padding decides.
        """
        pasts = [feeds[past_key(0)].shape[2] for feeds, _ in rows]
        lengths = [feeds["input_ids"].shape[1] for feeds, _ in rows]
        longest = max(lengths)
        capacity = max(pasts) + longest + _SLACK
        feeds: Arrays = {"write_index": np.array(pasts, np.int64)}
        for name in rows[0][0]:
            parts = [np.asarray(row[name]) for row, _ in rows]
            renamed = _renamed(name)
            if renamed != name:
                feeds[renamed] = np.concatenate([_padded(part, capacity, _POISON) for part in parts])
            elif name == "input_ids":
                feeds[name] = np.concatenate([np.pad(p, ((0, 0), (0, longest - p.shape[1]))) for p in parts])
            elif name == "position_ids":
                feeds[name] = np.concatenate([p[:, :1] + np.arange(longest, dtype=np.int64) for p in parts])
            elif name == "last_index":
                feeds[name] = np.concatenate(parts)
            else:
                feeds[name] = parts[0]
        expected: Arrays = {}
        for name in rows[0][1]:
            parts = [np.asarray(row[name]) for _, row in rows]
            renamed = _renamed(name)
            if renamed != name:
                blocks = []
                for part, past in zip(parts, pasts, strict=True):
                    block = _padded(part, capacity, _POISON)
                    block[:, :, part.shape[2] : past + longest] = np.nan
                    blocks.append(block)
                expected[renamed] = np.concatenate(blocks)
            elif parts[0].shape[1] == lengths[0] and "last_index" not in rows[0][0]:
                padding = [((0, 0), (0, longest - p.shape[1])) + ((0, 0),) * (p.ndim - 2) for p in parts]
                expected[name] = np.concatenate(
                    [np.pad(p, pad, constant_values=np.nan) for p, pad in zip(parts, padding, strict=True)]
                )
            else:
                expected[name] = np.concatenate(parts)
        return feeds, expected


_RENAMED = (
    ("past_key.", "cache_key."),
    ("past_value.", "cache_value."),
    ("present_key.", "updated_key."),
    ("present_value.", "updated_value."),
)


def _renamed(name: str) -> str:
    for old, new in _RENAMED:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _padded(array: NDArray[np.generic], capacity: int, fill: float) -> NDArray[np.generic]:
    return np.pad(array, ((0, 0), (0, 0), (0, capacity - array.shape[2]), (0, 0)), constant_values=fill)


def _size_of(graph: ir.Graph, before: ir.Node, value: ir.Value, axis: int, name: str) -> ir.Value:
    shape = new_node("Shape", [value], [f"{name}_1d"], start=axis, end=axis + 1)
    size = new_node("Squeeze", [shape.outputs[0]], [name])
    graph.insert_before(before, [shape, size])
    return size.outputs[0]


def _attention_of(inputs: dict[str | None, ir.Value], layer: int) -> ir.Node:
    readers = [node for node, _ in inputs[past_key(layer)].uses() if node.op_type == "Attention"]
    if len(readers) != 1 or len(readers[0].outputs) < 3:
        raise InternalError(
            "E1302",
            f"kv_cache: {past_key(layer)} has {len(readers)} Attention readers, not one with past and present",
            fix="disable it with passes.disable: [kv_cache] for a target with past/present, or report this model",
        )
    return readers[0]
