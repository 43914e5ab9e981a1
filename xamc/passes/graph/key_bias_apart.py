"""Keeps the biases of keys out of the KV cache of a static graph, so that 8 bits are spent on what differs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from xamc.errors import InternalError
from xamc.ir.onnx_graph import constant_node, infer_types_and_shapes, new_node, static_dims
from xamc.ir.program import Program
from xamc.ir.weights.lazy import LazyTensor
from xamc.model.config import ModelConfig
from xamc.model.kv_cache import past_key, present_key
from xamc.model.parameters import bias_name, has_key_biases
from xamc.model.rope import rope_table
from xamc.passes.protocol import Arrays, NonMatch, PassReport, Tensors

F32 = NDArray[np.float32]


def rotated_bias(bias: F32, config: ModelConfig, positions: NDArray[np.int64]) -> F32:
    """What a bias [Hkv * D] adds to the keys at `positions` [T] after RoPE, float32 [Hkv, T, D]."""
    cos, sin = (table[positions] for table in rope_table(config, int(positions.max(initial=0)) + 1))
    low, high = np.split(bias.astype(np.float32).reshape(-1, 1, config.head_dim), 2, axis=-1)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], -1)


class KeyBiasApart:
    """Takes the biases of keys out of what is cached, and adds them, rotated, where attention reads the cache.

        before: k = RoPE(Add(x Wk, b), positions);  keys = present_key = Concat(past_key, k)
        after:  k = RoPE(x Wk, positions);  present_key = Concat(past_key, k);  keys = Add(present_key, r)
                r = Add(Mul(b, cos), Mul(Concat(Neg(b[..., D/2:]), b[..., :D/2]), sin))         [1, Hkv, S, D]

    with cos and sin [1, 1, S, D] of the positions of all S slots: in a decode graph slot j < S - 1 holds position j,
    and the last slot the new token's. A key bias of 200, as some models have, is the same for all tokens and would
    leave few of 255 codes to what differs between them. Runs behind `rope_table` and `eager_attention`.
    """

    name = "key_bias_apart"
    tolerance = "reassociated"

    def __init__(self) -> None:
        self._config: ModelConfig | None = None
        self._biases: dict[int, LazyTensor] = {}

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        graph, config = program.model.graph, program.config
        if not has_key_biases(config):
            report.skipped.append(NonMatch("keys", "they have no bias, or none that is rotated the same way for ever"))
            return report
        self._config = config
        tables: list[ir.Value] = []
        values = {str(value.name): value for value in (*graph.inputs, *graph.outputs)}
        for layer in range(config.num_layers):
            name = bias_name(config, layer, "key")
            present = values.get(present_key(layer))
            if present is None:
                report.skipped.append(NonMatch(name, "the graph keeps no cache"))
                continue
            bias, rotation = values[name], _rotation(present)
            tables = tables or _all_positions(graph, rotation, present, values)
            _remove(graph, bias)
            _add(graph, present, bias, tables, config.head_dim)
            if name in program.weights:
                self._biases[layer] = program.weights[name]
            report.count("layer")
        infer_types_and_shapes(program.model)
        return report

    def adapt(self, feeds: Tensors, fetches: Tensors) -> tuple[Arrays, Arrays]:
        """The same call with caches whose keys lack their biases."""
        new_feeds = {name: np.asarray(array) for name, array in feeds.items()}
        expected = {name: np.asarray(array) for name, array in fetches.items()}
        for layer, tensor in self._biases.items():
            assert self._config is not None
            bias = tensor.read_rows(0, tensor.shape[0]).astype(np.float32)
            past, present = past_key(layer), present_key(layer)
            slots = np.arange(expected[present].shape[2], dtype=np.int64)
            if past in new_feeds:
                new_feeds[past] = _float32(new_feeds[past]) - rotated_bias(bias, self._config, slots[:-1])
                slots[-1] = int(np.asarray(feeds["position_ids"]).reshape(-1)[0])
            expected[present] = _float32(expected[present]) - rotated_bias(bias, self._config, slots)
        return new_feeds, expected


def _float32(array: NDArray[np.generic]) -> F32:
    return np.asarray(array, np.float32)


def _rotation(present: ir.Value) -> ir.Node:
    """The sum that ends the rotation of the step's own keys."""
    node = present.producer()
    if node is not None and node.op_type == "Concat" and node.inputs[1] is not None:
        node = node.inputs[1].producer()
    along = node.inputs[0].producer() if node is not None and node.op_type == "Add" and node.inputs[0] else None
    if node is None or along is None or along.op_type != "Mul":
        raise _unexpected(f"{present.name} is no rotation of this step's keys behind a past")
    return node


def _all_positions(
    graph: ir.Graph, rotation: ir.Node, present: ir.Value, values: Mapping[str, ir.Value]
) -> list[ir.Value]:
    """cos and sin [1, 1, S, D] of the positions of all slots, once for all layers."""
    tables = []
    length = (static_dims(present) or (0, 0, 0))[2]
    for index, name in enumerate(("cos", "sin")):
        product = rotation.inputs[index].producer() if rotation.inputs[index] is not None else None
        own = product.inputs[1] if product is not None else None
        producer = own.producer() if own is not None else None
        if own is None or producer is None:
            raise _unexpected(f"{rotation.outputs[0].name} has no rows of rope_{name}")
        if present.producer() is rotation:
            tables.append(own)
            continue
        bounds = [constant_node(np.array([n], np.int64), f"past_{name}.at_{n}") for n in (0, length - 1)]
        axes = [constant_node(np.array(a, np.int64), f"past_{name}.axes_{len(a)}") for a in ([0], [0, 1])]
        rows = new_node(
            "Slice",
            [values[f"rope_{name}"], *(b.outputs[0] for b in bounds), axes[0].outputs[0]],
            [f"past_{name}_rows"],
        )
        lifted = new_node("Unsqueeze", [rows.outputs[0], axes[1].outputs[0]], [f"past_{name}"])
        joined = new_node("Concat", [lifted.outputs[0], own], [f"all_{name}"], axis=2)
        graph.insert_after(producer, [*bounds, *axes, rows, lifted, joined])
        tables.append(joined.outputs[0])
    return tables


def _remove(graph: ir.Graph, bias: ir.Value) -> None:
    """Takes the addition of a bias to its product out of the graph."""
    uses = list(bias.uses())
    addition = uses[0][0] if len(uses) == 1 else None
    if addition is None or addition.op_type != "Add":
        raise _unexpected(f"{bias.name} is not added to one product")
    product = addition.inputs[1 - uses[0][1]]
    assert product is not None
    addition.outputs[0].replace_all_uses_with(product)
    graph.remove(addition, safe=True)


def _add(graph: ir.Graph, present: ir.Value, bias: ir.Value, tables: list[ir.Value], d: int) -> None:
    """Lets the readers of a layer's cached keys read their sum with the rotated bias."""
    producer, stem = present.producer(), f"{present.name}.bias"
    readers = list(present.uses())
    assert producer is not None and bias.shape is not None
    heads = int(static_dims(bias)[0]) // d  # type: ignore[index]
    numbers = {n: constant_node(np.array([n], np.int64), f"{stem}.at_{n}") for n in dict.fromkeys((0, d // 2, d, 2))}
    shape = constant_node(np.array([heads, 1, d], np.int64), f"{stem}.shape")
    whole = new_node("Reshape", [bias, shape.outputs[0]], [f"{stem}.heads"], like=producer)

    def part(start: int, stop: int, name: str) -> ir.Node:
        operands = [whole.outputs[0], *(numbers[n].outputs[0] for n in (start, stop, 2))]
        return new_node("Slice", operands, [f"{stem}.{name}"], like=producer)

    low, high = part(0, d // 2, "low"), part(d // 2, d, "high")
    negative = new_node("Neg", [high.outputs[0]], [f"{stem}.negative"], like=producer)
    turned = new_node("Concat", [negative.outputs[0], low.outputs[0]], [f"{stem}.turned"], like=producer, axis=2)
    along = new_node("Mul", [whole.outputs[0], tables[0]], [f"{stem}.along"], like=producer)
    across = new_node("Mul", [turned.outputs[0], tables[1]], [f"{stem}.across"], like=producer)
    rotated = new_node("Add", [along.outputs[0], across.outputs[0]], [f"{stem}.rotated"], like=producer)
    keys = new_node("Add", [present, rotated.outputs[0]], [f"{present.name}.keys"], like=producer)
    nodes = [*numbers.values(), shape, whole, low, high, negative, turned, along, across, rotated, keys]
    graph.insert_after(producer, nodes)
    for reader, operand in readers:
        reader.replace_input_with(operand, keys.outputs[0])


def _unexpected(what: str) -> InternalError:
    return InternalError(
        "E1329",
        f"key_bias_apart: {what}",
        fix="run the pass once, behind rope_table and eager_attention; otherwise report this model",
    )
