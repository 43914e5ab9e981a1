"""`mod.json`: a rank's graph as documented, versioned JSON; `mod.schema.json` beside this file is its schema.

The vendor's own `mod.json` is not public, so this is ours, and says so (`format`, `executes_on`). The same program
gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from xamc.artifact.manifest import HOST_SIMULATOR
from xamc.ir.names import (
    DEQUANTIZE_KV_OP,
    MODULE_KEY,
    QUANTIZE_KV_OP,
    QUANTIZED_LINEAR_OP,
)
from xamc.ir.onnx_graph import constant_array, static_dims
from xamc.ir.program import Program
from xamc.model.bucket import Bucket
from xamc.model.kv_cache import present_key
from xamc.targets.vacc.assumptions import ASSUMPTIONS
from xamc.targets.vacc.names import ISA, LIBRARY, PARAMS
from xamc.targets.vacc.weights import linear_weight

FORMAT = "xamc.vacc.graph"
VERSION = 1

_STORED = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.INT8: "int8",
    ir.DataType.INT64: "int64",
    ir.DataType.BOOL: "bool",
}
# the IR computes in float32, which stands for the card's float16
_COMPUTED = {**_STORED, ir.DataType.FLOAT: "float16"}


@dataclass(frozen=True)
class GraphPlace:
    """Which graph of which model it is."""

    name: str
    bucket: Bucket
    rank: int
    tp: int


def graph_text(program: Program, place: GraphPlace, code_weights: Sequence[Mapping[str, Any]]) -> str:
    """The text of `mod.json`.

    Args:
        program: the rank's graph in the static form.
        place: which one it is.
        code_weights: the weights tuple of the simulator's code, as the code generation reported it.
    """
    return json.dumps(graph_json(program, place, code_weights), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def graph_json(program: Program, place: GraphPlace, code_weights: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`mod.json` as a plain value; `docs/vacc.md` describes the keys."""
    graph, config = program.model.graph, program.config
    names = _Names(graph)
    logits = graph.outputs[0]
    # an embedding model's graph gives hidden states under that name, and no caches
    is_embedding = len(graph.outputs) == 1
    return {
        "format": FORMAT,
        "version": VERSION,
        "executes_on": HOST_SIMULATOR,
        "name": place.name,
        "phase": {
            "kind": place.bucket.kind,
            "iteration": "iter0" if place.bucket.kind == "prefill" else "iter1",
            "length": place.bucket.length,
        },
        "rank": place.rank,
        "tp": place.tp,
        "vocab": None if is_embedding else {"size": config.vocab_size, "padded": (static_dims(logits) or (0,))[-1]},
        "inputs": [_tensor(value, _COMPUTED) for value in program.data_inputs()],
        "outputs": [_tensor(value, _COMPUTED) for value in graph.outputs],
        "kv": _kv(program, place.bucket),
        "params": [
            {**_tensor(value, _STORED), "layout": "C", "roles": sorted(_roles(value))}
            for value in program.weight_inputs()
        ],
        "constants": [
            {**_tensor(node.outputs[0], _COMPUTED), "data": _data(array)}
            for node in graph
            if (array := constant_array(node.outputs[0])) is not None
        ],
        "nodes": [_node(node, names) for node in graph if not names.is_left_out(node)],
        "assumptions": [assumption.id for assumption in ASSUMPTIONS],
        "simulator": {
            "library": LIBRARY,
            "params": PARAMS,
            "function": "main",
            "isa": ISA,
            "weights": [dict(weight) for weight in code_weights],
        },
    }


class _Names:
    """Values by the name that the JSON gives them: casts between float types, which are no operators of the card, and
    constants, which have their own list, are left out."""

    def __init__(self, graph: ir.Graph) -> None:
        self._alias: dict[ir.Value, ir.Value] = {}
        for node in graph:
            if _is_float_cast(node) and not node.outputs[0].is_graph_output():
                source = node.inputs[0]
                assert source is not None
                self._alias[node.outputs[0]] = self._alias.get(source, source)

    def of(self, value: ir.Value | None) -> str | None:
        return None if value is None else str(self._alias.get(value, value).name)

    def is_left_out(self, node: ir.Node) -> bool:
        return node.outputs[0] in self._alias or constant_array(node.outputs[0]) is not None


def _is_float_cast(node: ir.Node) -> bool:
    floats = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
    source = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else None
    return node.op_type == "Cast" and source in floats and node.outputs[0].dtype in floats


def _tensor(value: ir.Value, dtypes: Mapping[ir.DataType, str]) -> dict[str, Any]:
    shape = static_dims(value)
    assert shape is not None and value.dtype is not None, f"{value.name} has no static shape or no type"
    return {"name": str(value.name), "shape": list(shape), "dtype": dtypes[value.dtype]}


def _node(node: ir.Node, names: _Names) -> dict[str, Any]:
    return {
        "op": node.op_type,
        "domain": node.domain or "ai.onnx",
        "inputs": [names.of(value) for value in node.inputs],
        "outputs": [_tensor(value, _COMPUTED) for value in node.outputs],
        "attributes": {name: _plain(node.attributes[name]) for name in sorted(node.attributes)},
        "module": node.metadata_props.get(MODULE_KEY),
    }


def _plain(attribute: ir.Attr) -> Any:
    value = attribute.value
    if isinstance(value, bytes):
        return value.decode()
    return list(value) if isinstance(value, (list, tuple)) else value


def _data(array: NDArray[np.generic]) -> list[Any]:
    flat = array.reshape(-1)
    values: list[Any] = (flat.astype(np.float16) if flat.dtype.kind == "f" else flat).tolist()
    return values


def _kv(program: Program, bucket: Bucket) -> dict[str, Any]:
    """How keys and values travel between calls."""
    outputs = {str(value.name): value for value in program.model.graph.outputs}
    present = outputs.get(present_key(0))
    if present is None:
        return {"layers": 0}
    _, heads, slots, channels = static_dims(present) or ()
    assert present.dtype is not None
    contract_of = {
        "layers": program.config.num_layers,
        "heads": heads,
        "slots": slots,
        "channels": channels,
        "dtype": _COMPUTED[present.dtype],
        "layout": "batch, kv head, slot, channel",
        "keys": "after RoPE",
    }
    if bucket.kind == "prefill":
        return {**contract_of, "past_slots": 0, "new_slots": [0, slots], "moved_by": None}
    return {**contract_of, "past_slots": slots - 1, "new_slots": [slots - 1, slots], "moved_by": "host"}


def _roles(weight: ir.Value) -> set[str]:
    """What a parameter is for, by the operators that read it."""
    roles, seen, pending = set[str](), set[ir.Value](), [weight]
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        for node, index in value.uses():
            kind = (node.op_type, index)
            if node.op_type in ("Cast", "Transpose"):
                pending.append(node.outputs[0])
            elif linear_weight(node) is weight:
                roles.add("linear")
            elif kind == ("Gather", 0):
                ids = node.inputs[1]
                roles.add("embedding" if ids is not None and ids.name == "input_ids" else "rope_table")
            elif kind == ("RMSNormalization", 1):
                roles.add("norm")
            elif node.op_type == QUANTIZED_LINEAR_OP:
                roles.add({1: "linear_codes", 2: "linear_scales"}.get(index, "other"))
            elif node.op_type in (QUANTIZE_KV_OP, DEQUANTIZE_KV_OP):
                roles.add({1: "kv_scales", 2: "kv_zeros"}.get(index, "other"))
            elif node.op_type == "Add":
                roles.add("bias")
            else:
                roles.add("other")
    return roles
