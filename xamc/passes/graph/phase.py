"""Fixes the phase and the length of a graph: every shape becomes static."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from xamc.errors import InternalError
from xamc.ir.names import MASK_DOMAIN, MASK_OP
from xamc.ir.onnx_graph import (
    constant_node,
    dims,
    infer_types_and_shapes,
    new_node,
    remove_dead,
    static_dims,
    take_over,
    write_reshape_sizes,
)
from xamc.ir.program import Program
from xamc.model.bucket import Bucket
from xamc.model.kv_cache import past_key, past_value
from xamc.passes.protocol import Arrays, PassReport, Tensors

# What the unused slots of a past hold in proofs: large enough that reading one would be seen.
_POISON = 37.0


@dataclass(frozen=True)
class StaticPhase:
    """Turns the graph of any batch, length and past into the graph of one phase with batch 1 and length S.

    prefill: S tokens at positions 0 to S - 1, which are a constant; no past and no mask but the causal one.

        before: y, present_key, present_value = Attention(q, k, v, mask, past_key, past_value)
        after:  y = Attention(q, k, v, mask); k and v are the outputs present_key and present_value

    decode: one token at `position_ids` int64 [1, 1] on top of a past of S - 1 slots, of which `attention_mask` int64
    [1, S] says which are valid (1) and which are not (0). Slot S - 1 is the new token's.

        before: y, present_key, present_value = Attention(q, k, v, window, past_key, past_value, is_causal=1)
        after:  the same with the mask And(window, attention_mask > 0), and not causal

    In a decode graph slot j < S - 1 holds position j, so the key positions 0 to S - 1 that the sliding-window mask
    compares are right for the past; the new token in slot S - 1 is inside its own window wherever it stands.

    Every Reshape gets all its sizes, and no operator that asks for a shape is left.
    """

    bucket: Bucket
    name: str = "phase"
    tolerance: str = "reassociated"

    @property
    def _tokens(self) -> int:
        return self.bucket.length if self.bucket.kind == "prefill" else 1

    @property
    def _past(self) -> int:
        return self.bucket.length - self._tokens

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        model, graph, config = program.model, program.model.graph, program.config
        inputs = {str(value.name): value for value in graph.inputs}
        if past_key(0) not in inputs or static_dims(inputs["input_ids"]) is not None:
            raise _unexpected("the graph has no past_key.0 or no dynamic length: its shapes have been fixed already")
        length, rows = self.bucket.length, config.head_dim // 2
        sizes: dict[str, list[int]] = {
            "input_ids": [1, self._tokens],
            "position_ids": [1, self._tokens],
            "rope_cos": [length, rows],
            "rope_sin": [length, rows],
        }
        for layer in range(config.num_layers):
            for name in (past_key(layer), past_value(layer)):
                sizes[name] = [1, config.num_kv_heads, self._past, config.head_dim]
        for name, size in sizes.items():
            inputs[name].shape = ir.Shape(size)
        masks = self._size_masks(graph)
        if self.bucket.kind == "prefill":
            self._prefill(graph, inputs, config.num_layers, report)
        else:
            self._decode(graph, inputs, config.num_layers, report)
        remove_dead(model)
        _infer_static_shapes(model, masks, self._tokens, length)
        write_reshape_sizes(graph)
        return report

    def _size_masks(self, graph: ir.Graph) -> list[ir.Node]:
        """Gives every sliding-window mask its number of keys, and returns the masks."""
        masks = [node for node in graph if (node.domain, node.op_type) == (MASK_DOMAIN, MASK_OP)]
        if masks:
            keys = constant_node(np.array(self.bucket.length, np.int64), "kv_length")
            graph.insert_before(masks[0], keys)
            for node in masks:
                node.replace_input_with(1, keys.outputs[0])
        return masks

    def _prefill(self, graph: ir.Graph, inputs: dict[str, ir.Value], layers: int, report: PassReport) -> None:
        positions = constant_node(np.arange(self.bucket.length, dtype=np.int64)[None], "positions")
        graph.insert_before(next(iter(graph)), positions)
        inputs["position_ids"].replace_all_uses_with(positions.outputs[0])
        graph.inputs.remove(inputs["position_ids"])
        for layer in range(layers):
            node = _attention_of(inputs, layer)
            for value, present in zip(node.inputs[1:3], node.outputs[1:3], strict=True):
                assert value is not None
                take_over(value, present)
            attention = _attention(list(node.inputs[:4]), node)
            graph.insert_before(node, attention)
            take_over(attention.outputs[0], node.outputs[0])
            graph.remove(node, safe=True)
            for past in (past_key(layer), past_value(layer)):
                graph.inputs.remove(inputs[past])
            report.count("attention")

    def _decode(self, graph: ir.Graph, inputs: dict[str, ir.Value], layers: int, report: PassReport) -> None:
        length = self.bucket.length
        mask = ir.val("attention_mask", dtype=ir.DataType.INT64, shape=[1, length])
        graph.inputs.insert(list(graph.inputs).index(inputs["position_ids"]), mask)
        zero = constant_node(np.array(0, np.int64), "zero")
        axes = constant_node(np.array([1, 2], np.int64), "slot_axes")
        valid = new_node("Greater", [mask, zero.outputs[0]], ["slot_valid_2d"])
        # [1, 1, 1, S]: heads and queries are broadcast
        slots = new_node("Unsqueeze", [valid.outputs[0], axes.outputs[0]], ["slot_valid"])
        graph.insert_before(next(iter(graph)), [zero, axes, valid, slots])
        allowed: dict[ir.Value | None, ir.Value] = {None: slots.outputs[0]}
        for layer in range(layers):
            node = _attention_of(inputs, layer)
            window = node.inputs[3] if len(node.inputs) > 3 else None
            if window is not None and window not in allowed:
                both = new_node("And", [window, slots.outputs[0]], [f"{window.name}.valid"])
                graph.insert_before(node, both)
                allowed[window] = both.outputs[0]
            attention = _attention([*node.inputs[:3], allowed[window], *node.inputs[4:6]], node, outputs=3)
            attention.attributes.pop("is_causal", None)
            graph.insert_before(node, attention)
            for new, old in zip(attention.outputs, node.outputs, strict=True):
                take_over(new, old)
            graph.remove(node, safe=True)
            report.count("attention")

    def accepts(self, feeds: Tensors) -> bool:
        """A prefill graph serves one new sequence of at most S tokens, a decode graph one token on at most S - 1."""
        batch, tokens = feeds["input_ids"].shape
        past = feeds[past_key(0)].shape[2]
        if self.bucket.kind == "prefill":
            return bool(batch == 1 and past == 0 and tokens <= self.bucket.length)
        return bool(batch == 1 and tokens == 1 and past <= self._past)

    def adapt(self, feeds: Tensors, fetches: Tensors) -> tuple[Arrays, Arrays]:
        """The same call with its tokens or its past padded to the right.

        Expected outputs are NaN where only padding decides.
        """
        length = self.bucket.length
        tables: Arrays = {name: np.asarray(feeds[name])[:length] for name in ("rope_cos", "rope_sin")}
        if self.bucket.kind == "prefill":
            tokens = feeds["input_ids"].shape[1]
            ids = np.pad(feeds["input_ids"], ((0, 0), (0, length - tokens)))
            expected = {
                name: _padded(array, 1 if name == "logits" else 2, length, np.nan) for name, array in fetches.items()
            }
            return {"input_ids": ids, **tables}, expected
        past = feeds[past_key(0)].shape[2]
        valid = np.zeros((1, length), np.int64)
        valid[:, :past] = 1
        valid[:, -1] = 1
        new_feeds: Arrays = {"attention_mask": valid, **tables}
        for name, array in feeds.items():
            if name.startswith("past_"):
                new_feeds[name] = _padded(array, 2, self._past, _POISON)
            elif name not in tables:
                new_feeds[name] = np.asarray(array)
        expected = {}
        for name, array in fetches.items():
            if name == "logits":
                expected[name] = np.asarray(array)
            else:
                expected[name] = np.concatenate(
                    [_padded(array[:, :, :past], 2, self._past, _POISON), array[:, :, past:]], axis=2
                )
        return new_feeds, expected


def _padded(array: NDArray[np.generic], axis: int, length: int, fill: float) -> NDArray[np.generic]:
    width = [(0, 0)] * array.ndim
    width[axis] = (0, length - array.shape[axis])
    return np.pad(array, width, constant_values=fill)


def _attention(inputs: list[ir.Value | None], like: ir.Node, outputs: int = 1) -> ir.Node:
    node = ir.node("Attention", inputs, dict(like.attributes), num_outputs=outputs)
    node.metadata_props.update(like.metadata_props)
    return node


def _attention_of(inputs: dict[str, ir.Value], layer: int) -> ir.Node:
    readers = [node for node, _ in inputs[past_key(layer)].uses() if node.op_type == "Attention"]
    if len(readers) != 1 or len(readers[0].outputs) != 3:
        raise _unexpected(f"{past_key(layer)} has {len(readers)} Attention readers, not one with past and present")
    return readers[0]


def _infer_static_shapes(model: ir.Model, masks: list[ir.Node], tokens: int, length: int) -> None:
    """Replaces all recorded shapes by those that follow from the inputs.

    Raises:
        InternalError: E1320, a shape that doesn't follow from them, or an operator that asks for a shape.
    """
    graph = model.graph
    for node in graph:
        for value in node.outputs:
            if node.op_type != "Constant":
                value.shape = None
    for node in masks:
        # inference does not see the number of keys, which is data inside the function
        node.outputs[0].shape = ir.Shape([1, 1, tokens, length])
    infer_types_and_shapes(model)
    for node in graph:
        if node.op_type in ("Shape", "Size"):
            raise _unexpected(f"{node.op_type} {node.outputs[0].name!r} computes a size at run time")
        for value in node.outputs:
            shape = static_dims(value)
            if shape is None or any(dim < 1 for dim in shape):
                raise _unexpected(f"{node.op_type} {value.name!r} has no static shape but {dims(value)}")


def _unexpected(what: str) -> InternalError:
    return InternalError(
        "E1320",
        f"phase: {what}",
        fix="run the pass once, after cleanup, on an export with past and present; otherwise report this model",
    )
