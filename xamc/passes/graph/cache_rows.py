"""Puts the KV caches of several sequences into one tensor of fixed size, of which a call names the rows it uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from xamc.errors import InternalError
from xamc.ir.names import GATHER_POSITION_OP, MASK_DOMAIN, MASK_OP
from xamc.ir.onnx_graph import (
    constant_node,
    infer_types_and_shapes,
    new_node,
    remove_dead,
    static_dims,
    take_over,
    write_reshape_sizes,
)
from xamc.ir.program import Program
from xamc.model.kv_cache import past_key, past_value
from xamc.passes.graph.kv_cache import cache_key, cache_value, updated_key, updated_value
from xamc.passes.protocol import Arrays, PassReport, Tensors

# What the unused part of a cache holds in proofs: large enough that reading it would be seen.
_POISON = 37.0
_TABLES = ("rope_cos", "rope_sin")
_Pair = tuple[Tensors, Tensors]


@dataclass(frozen=True)
class CacheRows:
    """Turns the graph of any length and past into one that reads and writes rows of a cache [R, C, Hkv, D].

    R rows are R sequences, C slots their tokens. A call of B sequences names their rows in `batch_index` int64 [B], all
    different, and how many tokens they have in `batch_valid_length` int64 [B].

    decode: `tokens` int64 [B, 1] stand at the positions `batch_valid_length`; attention looks at the first A slots,
    A being the length of `zactivate_len` int64 [A], whose contents are not read.

        before: y, present_key, present_value = Attention(q, k, v, window, past_key, past_value, is_causal=1)
        after:  places [B, T, 2] = (batch_index, position) of every token
                updated_key   = ScatterND(cache_key, places, Transpose(k))
                updated_value = ScatterND(cache_value, places, Transpose(v))
                keys, values  = Transpose(Gather(Slice(updated, 0, A), batch_index))
                y = Attention(q, keys, values, And(window, slot <= position))

    prefill: `tokens` int64 [B, S] begin B sequences and are padded on the right; `batch_valid_length` says how many
    of them count, and the logits are those of each row's last one (`last_position` has to run first).

        after:  the same places and caches, and y = Attention(q, k, v, And(window, causal))

    What padding leaves in a cache lies behind the sequence's tokens and is overwritten before it can be read. The new
    caches are outputs of their own: the caller hands them in at the next call. `batch` and `length` (S, or A) fix the
    shapes, and leave `zactivate_len` out; without them the graph has symbolic sizes, every one of them an input's.
    """

    kind: Literal["prefill", "decode"]
    capacity: int
    rows: int
    batch: int | None = None
    length: int | None = None
    name: str = "cache_rows"
    tolerance: str = "reassociated"

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        model, graph, config = program.model, program.model.graph, program.config
        inputs = {str(value.name): value for value in graph.inputs}
        if past_key(0) not in inputs or ("last_index" in inputs) != (self.kind == "prefill"):
            raise _unexpected("the graph has no past_key.0, or its logits are not those the phase needs")
        for node in graph:
            for value in node.outputs:
                if node.op_type != "Constant":
                    value.shape = None
        first = next(iter(graph))
        call = self._inputs(graph, inputs, config.head_dim)
        sizes = _Sizes(graph, first, self, call)
        places, positions = sizes.places()
        inputs["position_ids"].replace_all_uses_with(positions)
        windows: dict[int | None, ir.Value] = {}
        for layer in range(config.num_layers):
            node = _attention_of(inputs, layer)
            window = _window_of(node)
            if window not in windows:
                windows[window] = sizes.visible(window)
            keys, values = (
                self._cache(graph, node, inputs[past(layer)], (cache(layer), updated(layer)), operand, places, sizes)
                for past, cache, updated, operand in (
                    (past_key, cache_key, updated_key, 1),
                    (past_value, cache_value, updated_value, 2),
                )
            )
            attention = ir.node(
                "Attention", [node.inputs[0], keys, values, windows[window]], dict(node.attributes), num_outputs=1
            )
            attention.attributes.pop("is_causal", None)
            attention.metadata_props.update(node.metadata_props)
            graph.insert_before(node, attention)
            take_over(attention.outputs[0], node.outputs[0])
            report.count("attention")
        if self.kind == "prefill":
            _gather_last(graph, inputs["last_index"], sizes)
            graph.inputs.remove(inputs["last_index"])
        graph.inputs.remove(inputs["position_ids"])
        remove_dead(model)
        self._infer(model)
        return report

    def _inputs(self, graph: ir.Graph, inputs: dict[str, ir.Value], head_dim: int) -> dict[str, ir.Value]:
        """Renames `input_ids` and adds the inputs of a call; sizes the RoPE tables."""
        batch = self.batch or "batch"
        tokens = inputs["input_ids"]
        tokens.name = "tokens"
        tokens.shape = ir.Shape([batch, 1 if self.kind == "decode" else self.length or "seq"])
        new = [ir.val(name, dtype=ir.DataType.INT64, shape=[batch]) for name in ("batch_index", "batch_valid_length")]
        if self.kind == "decode" and self.length is None:
            new.append(ir.val("zactivate_len", dtype=ir.DataType.INT64, shape=["active"]))
        at = list(graph.inputs).index(tokens) + 1
        for value in reversed(new):
            graph.inputs.insert(at, value)
        for table in _TABLES:
            inputs[table].shape = ir.Shape([self.capacity, head_dim // 2])
        return {"tokens": tokens, **{str(value.name): value for value in new}}

    def _cache(
        self,
        graph: ir.Graph,
        node: ir.Node,
        past: ir.Value,
        names: tuple[str, str],
        operand: int,
        places: ir.Value,
        sizes: _Sizes,
    ) -> ir.Value:
        """Writes a layer's new keys or values into their cache; returns what attention reads, [B, Hkv, K, D]."""
        fresh, old = node.inputs[operand], past.shape
        assert fresh is not None and old is not None
        past.name = names[0]
        past.shape = ir.Shape([self.rows, self.capacity, old[1], old[3]])
        turned = new_node("Transpose", [fresh], [f"{names[1]}.new"], like=node, perm=[0, 2, 1, 3])
        scatter = new_node("ScatterND", [past, places, turned.outputs[0]], [names[1]], like=node)
        scatter.outputs[0].type, scatter.outputs[0].shape = past.type, past.shape
        graph.insert_before(node, [turned, scatter])
        index = [output.name for output in graph.outputs].index(node.outputs[operand].name)
        graph.outputs[index] = scatter.outputs[0]
        if self.kind == "prefill":
            return fresh
        stem = f"{names[1]}.active"
        bounds = [sizes.zero, sizes.length, sizes.one]
        active = new_node("Slice", [scatter.outputs[0], *bounds], [f"{stem}_slots"], like=node)
        picked = new_node("Gather", [active.outputs[0], sizes.call["batch_index"]], [f"{stem}_rows"], like=node, axis=0)
        heads = new_node("Transpose", [picked.outputs[0]], [stem], like=node, perm=[0, 2, 1, 3])
        # inference does not follow a Slice whose end is an input's size
        slots, batch = self.length or "active", self.batch or "batch"
        active.outputs[0].shape = ir.Shape([self.rows, slots, old[1], old[3]])
        picked.outputs[0].shape = ir.Shape([batch, slots, old[1], old[3]])
        heads.outputs[0].shape = ir.Shape([batch, old[1], slots, old[3]])
        for made in (active, picked, heads):
            made.outputs[0].type = past.type
        graph.insert_before(node, [active, picked, heads])
        return heads.outputs[0]

    def _infer(self, model: ir.Model) -> None:
        """Fills in all shapes that follow from the inputs."""
        infer_types_and_shapes(model)
        if self.batch is None or self.length is None:
            return
        for node in model.graph:
            if node.op_type in ("Shape", "Size") or any(static_dims(value) is None for value in node.outputs):
                raise _unexpected(f"{node.op_type} {node.outputs[0].name!r} has no static shape")
        write_reshape_sizes(model.graph)

    def accepts(self, feeds: Tensors) -> bool:
        """A prefill graph serves new sequences, a decode graph one token of each, as many and as long as it is for."""
        batch, tokens = feeds["input_ids"].shape
        past = feeds[past_key(0)].shape[2]
        fits = batch <= (self.batch or self.rows) and past + tokens <= self.capacity
        if self.kind == "prefill":
            return bool(fits and past == 0 and tokens <= (self.length or tokens))
        return bool(fits and tokens == 1 and past < (self.length or self.capacity))

    def adapt(self, feeds: Tensors, fetches: Tensors) -> tuple[Arrays, Arrays]:
        """The same call on a cache with more rows and slots than are used."""
        per_call = {*_TABLES}
        rows = range(feeds["input_ids"].shape[0])
        return self.merge_rows(
            [
                (
                    {name: array if name in per_call else array[row : row + 1] for name, array in feeds.items()},
                    {name: array[row : row + 1] for name, array in fetches.items()},
                )
                for row in rows
            ]
        )

    def merge_rows(self, rows: Sequence[_Pair]) -> tuple[Arrays, Arrays]:
        """One call out of several of one row each, which may differ in past and length, on shuffled rows of the cache.

        Expected outputs are NaN where only padding decides.
        """
        batch = self.batch or len(rows)
        lengths = [feeds["input_ids"].shape[1] for feeds, _ in rows]
        pasts = [feeds[past_key(0)].shape[2] for feeds, _ in rows]
        longest = max(lengths) if self.length is None or self.kind == "decode" else self.length
        # the last rows of the cache, backwards; rows of padding take those that no sequence has
        index = np.arange(self.rows, dtype=np.int64)[::-1][:batch].copy()
        tokens, valid = np.zeros((batch, longest), np.int64), np.ones(batch, np.int64)
        valid[:] = 0 if self.kind == "decode" else 1
        feeds: Arrays = {name: np.asarray(rows[0][0][name])[: self.capacity] for name in _TABLES}
        for row, (mine, _) in enumerate(rows):
            tokens[row, : lengths[row]] = mine["input_ids"][0]
            valid[row] = pasts[row] if self.kind == "decode" else int(mine["last_index"][0]) + 1
        feeds |= {"tokens": tokens, "batch_index": index, "batch_valid_length": valid}
        if self.kind == "decode" and self.length is None:
            feeds["zactivate_len"] = np.zeros(min(max(pasts) + 2, self.capacity), np.int64)
        expected: Arrays = {}
        for name in rows[0][1]:
            if name == "logits":
                found = [np.asarray(fetches[name]) for _, fetches in rows]
                nothing = np.full((batch - len(rows), *found[0].shape[1:]), np.nan, np.float32)
                expected[name] = np.concatenate([*found, nothing])
                continue
            part, layer = name.removeprefix("present_").split(".")
            before, after = self._empty(rows[0][1][name]), self._empty(rows[0][1][name])
            for row, at in enumerate(index):
                if row >= len(rows):
                    after[at, :longest] = np.nan
                    continue
                past, all_tokens = rows[row][0][f"past_{part}.{layer}"], rows[row][1][name]
                before[at, : pasts[row]] = past[0].transpose(1, 0, 2)
                after[at, : pasts[row] + longest] = np.nan
                after[at, : all_tokens.shape[2]] = all_tokens[0].transpose(1, 0, 2)
            feeds[f"cache_{part}.{layer}"], expected[f"updated_{part}.{layer}"] = before, after
        return feeds, expected

    def _empty(self, present: NDArray[np.generic]) -> NDArray[np.float32]:
        return np.full((self.rows, self.capacity, present.shape[1], present.shape[3]), _POISON, np.float32)


class _Sizes:
    """Values that all layers share, in front of the graph: what is static is a constant, the rest a size of an input.

    Attributes:
        call: the call's inputs by name.
        zero, one: int64 [1].
        length: int64 [1], S of a prefill or A of a decode.
    """

    def __init__(self, graph: ir.Graph, first: ir.Node, rows: CacheRows, call: dict[str, ir.Value]) -> None:
        self.call = call
        self._graph, self._first, self._rows = graph, first, rows
        self._seen: tuple[ir.Value, ir.Value, ir.Value] | None = None
        self._tokens_shape: ir.Value | None = None
        self.zero, self.one = (self.constant(np.array([n], np.int64), name) for n, name in ((0, "zero"), (1, "one")))
        self.length = self._length()
        numbers = self.constant(np.arange(rows.capacity, dtype=np.int64), "all_slots")
        #: int64 [K], the slots that attention looks at; of a prefill also the positions of its tokens
        symbol = "active" if rows.kind == "decode" else "seq"
        self._slots = self._prefix(numbers, self.length, rows.length, "slots", symbol)

    def constant(self, array: NDArray[np.generic], name: str) -> ir.Value:
        """A constant in front of the graph."""
        node = constant_node(array, name)
        self._graph.insert_before(self._first, node)
        return node.outputs[0]

    def emit(self, op: str, operands: Sequence[ir.Value], name: str, **attributes: Any) -> ir.Value:
        """A node in front of the graph."""
        node = new_node(op, operands, [name], **attributes)
        self._graph.insert_before(self._first, node)
        return node.outputs[0]

    def lifted(self, value: ir.Value, axes: Sequence[int], name: str) -> ir.Value:
        """`value` with further dimensions of 1."""
        return self.emit("Unsqueeze", [value, self.constant(np.array(axes, np.int64), f"{name}.axes")], name)

    def places(self) -> tuple[ir.Value, ir.Value]:
        """(row, slot) of every token [B, T, 2], and every token's position [B, T]."""
        rows = self.lifted(self.call["batch_index"], [1], "token_rows")
        if self._rows.kind == "decode":
            positions = self.lifted(self.call["batch_valid_length"], [1], "positions")
        else:
            shape = self._shape_of_tokens()
            rows = self.emit("Expand", [rows, shape], "token_rows_2d")
            positions = self.emit("Expand", [self.lifted(self._slots, [0], "positions_1d"), shape], "positions")
        pair = [self.lifted(rows, [2], "places.row"), self.lifted(positions, [2], "places.slot")]
        return self.emit("Concat", pair, "places", axis=2), positions

    def visible(self, window: int | None) -> ir.Value:
        """Which slots a token sees, bool [1 or B, 1, T, K]: those up to its own, and none older than the window."""
        if self._seen is None:
            is_decode = self._rows.kind == "decode"
            source, axes = (self.call["batch_valid_length"], [1, 2, 3]) if is_decode else (self._slots, [0, 1, 3])
            own, slots = self.lifted(source, axes, "own_slot"), self.lifted(self._slots, [0, 1, 2], "seen_slots")
            following = self.emit("Add", [own, self.one], "next_slot")
            self._seen = own, slots, self.emit("Greater", [following, slots], "visible")
        own, slots, visible = self._seen
        if window is None:
            return visible
        size = self.constant(np.array([window], np.int64), f"window_{window}.length")
        oldest = self.emit("Sub", [own, size], f"window_{window}.too_old")
        inside = self.emit("Greater", [slots, oldest], f"window_{window}.inside")
        return self.emit("And", [visible, inside], f"window_{window}.visible")

    def batch_numbers(self) -> ir.Value:
        """int64 [B]: 0 to B - 1."""
        numbers = self.constant(np.arange(self._rows.batch or self._rows.rows, dtype=np.int64), "all_rows")
        if self._rows.batch is not None:
            return numbers
        return self._prefix(
            numbers, self.emit("Shape", [self.call["batch_index"]], "batch_size"), None, "row_numbers", "batch"
        )

    def _length(self) -> ir.Value:
        if self._rows.length is not None:
            return self.constant(np.array([self._rows.length], np.int64), "length")
        if self._rows.kind == "decode":
            return self.emit("Shape", [self.call["zactivate_len"]], "length")
        shape, two = self._shape_of_tokens(), self.constant(np.array([2], np.int64), "two")
        return self.emit("Slice", [shape, self.one, two], "length")

    def _shape_of_tokens(self) -> ir.Value:
        if self._rows.batch is not None and self._rows.length is not None:
            return self.constant(np.array([self._rows.batch, self._rows.length], np.int64), "tokens_shape_fixed")
        if self._tokens_shape is None:
            self._tokens_shape = self.emit("Shape", [self.call["tokens"]], "tokens_shape")
        return self._tokens_shape

    def _prefix(self, numbers: ir.Value, length: ir.Value, known: int | None, name: str, symbol: str) -> ir.Value:
        """The first `length` elements; a constant of its own where the number is known."""
        if known is not None:
            return self.constant(np.arange(known, dtype=np.int64), name)
        part = self.emit("Slice", [numbers, self.zero, length], name)
        part.type, part.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([symbol])
        return part


def _window_of(node: ir.Node) -> int | None:
    """The length of an attention's sliding window.

    Raises:
        InternalError: E1326, a mask of another kind.
    """
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    producer = mask.producer() if mask is not None else None
    if mask is None:
        return None
    if producer is None or (producer.domain, producer.op_type) != (MASK_DOMAIN, MASK_OP):
        raise _unexpected(f"{node.outputs[0].name} has the mask {mask.name!r}, which is no sliding window")
    return int(producer.attributes["window"].as_int())


def _gather_last(graph: ir.Graph, last_index: ir.Value, sizes: _Sizes) -> None:
    """`xamc::GatherPosition(hidden, last_index)` as GatherND by (row of the call, batch_valid_length - 1)."""
    last = sizes.emit("Sub", [sizes.call["batch_valid_length"], sizes.one], "last_token")
    pair = [sizes.lifted(sizes.batch_numbers(), [1, 2], "last.row"), sizes.lifted(last, [1, 2], "last.token")]
    places = sizes.emit("Concat", pair, "last_places", axis=2)
    for node, _ in list(last_index.uses()):
        if (node.domain, node.op_type) != (MASK_DOMAIN, GATHER_POSITION_OP):
            raise _unexpected(f"{node.op_type} {node.outputs[0].name!r} reads last_index")
        gather = new_node("GatherND", [node.inputs[0], places], [f"{node.outputs[0].name}.picked"], like=node)
        graph.insert_before(node, gather)
        take_over(gather.outputs[0], node.outputs[0])
        graph.remove(node, safe=True)


def _attention_of(inputs: dict[str, ir.Value], layer: int) -> ir.Node:
    name = past_key(layer)
    readers = [node for node, _ in inputs[name].uses() if node.op_type == "Attention"]
    if len(readers) != 1 or len(readers[0].outputs) != 3:
        raise _unexpected(f"{name} has {len(readers)} Attention readers, not one with past and present")
    return readers[0]


def _unexpected(what: str) -> InternalError:
    return InternalError(
        "E1326",
        f"cache_rows: {what}",
        fix="run the pass once on an export with past and present, for prefill after last_position; otherwise report "
        "this model",
    )
