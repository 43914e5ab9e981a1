"""Makes every attention mask an explicit tensor that is added to the scores."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from xamc.errors import InternalError
from xamc.ir.names import MASK_DOMAIN, MASK_OP
from xamc.ir.onnx_graph import (
    constant_array,
    constant_node,
    infer_types_and_shapes,
    new_node,
    remove_dead,
    static_dims,
    take_over,
)
from xamc.ir.program import Program
from xamc.passes.protocol import NonMatch, PassReport, SameSignature

MASKED = float(np.finfo(np.float16).min)
"""What a mask adds where attention is forbidden: the lowest float16. With scores far above it, softmax in fp32 gives
exactly 0 there."""


class CausalMask(SameSignature):
    """Replaces `is_causal` and boolean masks by one additive float mask, shared by all layers that want the same.

    before: Attention(q, k, v, window bool [1, 1, T, S], is_causal=1)
    after:  visible = And(window, Greater(next_position [1, 1, T, 1], key_position [1, 1, 1, S]))
            Attention(q, k, v, Where(visible, 0, -65504))

    Conditions are combined before they become numbers: two masks are never added, since twice -65504 is -inf in
    float16. `xamc::SlidingWindowMask` becomes Greater(key_position, position - window). The mask lives in a graph of
    static shapes, in which all positions of a prefill are constants.
    """

    name = "causal_mask"
    tolerance = "reassociated"

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        model, graph = program.model, program.model.graph
        for node in list(graph):
            if (node.domain, node.op_type) == (MASK_DOMAIN, MASK_OP):
                _open_window(graph, node)
                report.count("window")
        masks: dict[tuple[ir.Value | None, bool], ir.Value] = {}
        for node in list(graph):
            if node.op_type != "Attention" or node.domain != "":
                continue
            place = node.outputs[0].name or "Attention"
            causal = bool(node.attributes.get_int("is_causal", 0))
            condition = node.inputs[3] if len(node.inputs) > 3 else None
            if condition is not None and condition.dtype != ir.DataType.BOOL:
                if causal:
                    raise _unexpected(f"{place} is causal and has an additive mask, to which none can be added")
                report.skipped.append(NonMatch(place, "its mask is additive already"))
                continue
            if condition is None and not causal:
                report.skipped.append(NonMatch(place, "it has no mask"))
                continue
            key = (condition, causal)
            if key not in masks:
                masks[key] = _additive(graph, node, condition, causal, f"mask_{len(masks)}" if masks else "mask")
                report.count("mask")
            if len(node.inputs) < 4:
                node.resize_inputs(4)
            node.replace_input_with(3, masks[key])
            node.attributes.pop("is_causal", None)
            report.count("attention")
        remove_dead(model)
        infer_types_and_shapes(model)
        return report


def _open_window(graph: ir.Graph, node: ir.Node) -> None:
    """Spells out `xamc::SlidingWindowMask(position_ids [1, T], kv_length)` -> bool [1, 1, T, S]."""
    window = node.attributes["window"].as_int()
    positions, shape = node.inputs[0], static_dims(node.outputs[0])
    if positions is None or shape is None:
        raise _unexpected(f"the sliding-window mask {node.outputs[0].name!r} has no static shape")
    stem = f"window_{window}"
    keys = constant_node(_key_positions(shape[3]), f"{stem}.key_positions")
    known = constant_array(positions)
    if known is not None:
        new = [constant_node((known - window)[:, None, :, None], f"{stem}.too_old")]
    else:
        length = constant_node(np.array(window, np.int64), f"{stem}.length")
        axes = constant_node(np.array([1, 3], np.int64), f"{stem}.axes")
        oldest = new_node("Sub", [positions, length.outputs[0]], [f"{stem}.too_old_2d"])
        lifted = new_node("Unsqueeze", [oldest.outputs[0], axes.outputs[0]], [f"{stem}.too_old"])
        new = [length, axes, oldest, lifted]
    inside = new_node("Greater", [keys.outputs[0], new[-1].outputs[0]], [f"{stem}.inside"])
    graph.insert_before(node, [keys, *new, inside])
    take_over(inside.outputs[0], node.outputs[0])


def _additive(graph: ir.Graph, node: ir.Node, condition: ir.Value | None, causal: bool, name: str) -> ir.Value:
    """The nodes of one additive mask before `node`, the first attention that wants it."""
    new: list[ir.Node] = []
    if causal:
        query, key = static_dims(node.inputs[0]), static_dims(node.inputs[1])
        if query is None or key is None or query[2] != key[2] or any(value is not None for value in node.inputs[4:]):
            raise _unexpected(
                f"the causal attention {node.outputs[0].name!r} is not that of a prefill of static length"
            )
        following = np.arange(1, query[2] + 1, dtype=np.int64).reshape(1, 1, -1, 1)
        new.append(constant_node(following, f"{name}.next_positions"))
        new.append(constant_node(_key_positions(query[2]), f"{name}.key_positions"))
        # a query sees the keys before its next position
        new.append(new_node("Greater", [new[0].outputs[0], new[1].outputs[0]], [f"{name}.causal"]))
        if condition is not None:
            new.append(new_node("And", [condition, new[-1].outputs[0]], [f"{name}.visible"]))
    visible = new[-1].outputs[0] if new else condition
    seen = constant_node(np.array(0, np.float32), f"{name}.seen")
    masked = constant_node(np.array(MASKED, np.float32), f"{name}.masked")
    mask = new_node("Where", [visible, seen.outputs[0], masked.outputs[0]], [name])
    graph.insert_before(node, [*new, seen, masked, mask])
    return mask.outputs[0]


def _key_positions(length: int) -> NDArray[np.int64]:
    return np.arange(length, dtype=np.int64).reshape(1, 1, 1, -1)


def _unexpected(what: str) -> InternalError:
    return InternalError(
        "E1321",
        f"causal_mask: {what}",
        fix="run the pass once, after phase has fixed the shapes; otherwise report this model",
    )
