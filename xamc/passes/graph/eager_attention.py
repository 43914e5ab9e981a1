"""Attention as the matrix products and the softmax it consists of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from xamc.errors import InternalError
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
from xamc.passes.protocol import PassReport, SameSignature


@dataclass(frozen=True)
class EagerAttention(SameSignature):
    """Replaces `Attention` by eager attention (Vaswani et al. 2017; grouped heads: Ainslie 2023).

        before: y, present_key, present_value = Attention(q, k, v, mask, past_key, past_value)
        after:  present_key = Concat(past_key, k); present_value = Concat(past_value, v)      if there is a past
                keys, values = repeat_kv(present_key), repeat_kv(present_value)               if heads are grouped
                y = MatMul(Softmax(Add(Mul(MatMul(q, Transpose(keys)), 1 / sqrt(D)), mask)), values)

    repeat_kv copies each KV head for the H / Hkv query heads that share it, as Unsqueeze [1, Hkv, 1, S, D], Expand
    [1, Hkv, H / Hkv, S, D] and Reshape [1, H, S, D]: query head h reads KV head h // (H / Hkv). Batch and lengths may
    be symbolic; Expand and Reshape then name only the sizes that are known. Softmax runs in float32 whatever the
    target's activations are.

    Args:
        scale_query: multiply the query by 1 / sqrt(D) instead of the scores, so that these stay as small as they can
            be: where scores are float16, large queries and keys would overflow before they are scaled.
    """

    scale_query: bool = False
    name: str = "eager_attention"
    tolerance: str = "reassociated"

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        model, graph = program.model, program.model.graph
        for node in list(graph):
            if node.op_type == "Attention" and node.domain == "":
                _open(graph, node, program.config.head_dim, self.scale_query)
                report.count("attention")
        remove_dead(model)
        infer_types_and_shapes(model)
        return report


def _open(graph: ir.Graph, node: ir.Node, head_dim: int, scale_query: bool) -> None:
    place = node.outputs[0].name or "Attention"
    q, k, v, mask, past_key, past_value = _operands(node, place)
    query, key, value = dims(q), dims(k), dims(v)
    if query is None or key is None or value is None or len(query) != 4 or key[1] != value[1]:
        raise _unexpected(f"{place} has the operands {query}, {key} and {value}, not heads of one shape")
    if past_key is not None and past_value is not None:
        whole = [
            new_node("Concat", [past, new], [f"{place}.{name}"], like=node, axis=2)
            for past, new, name in ((past_key, k, "all_keys"), (past_value, v, "all_values"))
        ]
        graph.insert_before(node, whole)
        for concat, present in zip(whole, node.outputs[1:], strict=True):
            take_over(concat.outputs[0], present)
        k, v = (concat.outputs[0] for concat in whole)
    heads, kv_heads = query[1], key[1]
    if not isinstance(heads, int) or not isinstance(kv_heads, int):
        raise _unexpected(f"{place} has {heads} heads and {kv_heads} KV heads, which are no numbers")
    if heads != kv_heads:
        k = _repeat(graph, node, k, heads, f"{place}.keys")
        v = _repeat(graph, node, v, heads, f"{place}.values")
    scale = node.attributes["scale"].as_float() if "scale" in node.attributes else 1 / np.sqrt(head_dim)
    factor = constant_node(np.array(scale, np.float32), f"{place}.scale")
    turned = new_node("Transpose", [k], [f"{place}.keys_transposed"], like=node, perm=[0, 1, 3, 2])
    if scale_query:
        scaled = new_node("Mul", [q, factor.outputs[0]], [f"{place}.scaled_query"], like=node)
        scores = new_node("MatMul", [scaled.outputs[0], turned.outputs[0]], [f"{place}.scores"], like=node)
        new = [factor, turned, scaled, scores]
    else:
        products = new_node("MatMul", [q, turned.outputs[0]], [f"{place}.products"], like=node)
        scores = new_node("Mul", [products.outputs[0], factor.outputs[0]], [f"{place}.scores"], like=node)
        new = [factor, turned, products, scores]
    if mask is not None:
        new.append(new_node("Add", [scores.outputs[0], mask], [f"{place}.masked"], like=node))
    new.append(new_node("Softmax", [new[-1].outputs[0]], [f"{place}.weights"], like=node, axis=-1))
    new.append(new_node("MatMul", [new[-1].outputs[0], v], [f"{place}.mixed"], like=node))
    graph.insert_before(node, new)
    take_over(new[-1].outputs[0], node.outputs[0])


def _operands(node: ir.Node, place: str) -> list[ir.Value | None]:
    """q, k, v, mask, past_key and past_value of an Attention whose attributes leave nothing else to do."""
    operands = [*node.inputs, *[None] * (6 - len(node.inputs))]
    others = {
        name: attribute.value
        for name, attribute in node.attributes.items()
        if name != "scale" and attribute.value not in (0, 0.0)
    }
    mask = operands[3]
    if others or len(operands) > 6 or (mask is not None and mask.dtype != ir.DataType.FLOAT):
        kind = mask.dtype if mask is not None else None
        raise _unexpected(f"{place} has {others or 'no attributes'}, {len(operands)} operands and a mask of {kind}")
    return operands


def _repeat(graph: ir.Graph, node: ir.Node, x: ir.Value | None, heads: int, stem: str) -> ir.Value:
    """[B, Hkv, S, D] -> [B, H, S, D], every head H / Hkv times in a row."""
    shape = dims(x)
    assert shape is not None
    batch, kv_heads, length, head_dim = shape
    assert isinstance(kv_heads, int) and isinstance(head_dim, int)
    whole = static_dims(x) is not None
    axis = constant_node(np.array([2], np.int64), f"{stem}.axis")
    alone = new_node("Unsqueeze", [x, axis.outputs[0]], [f"{stem}.alone"], like=node)
    # a size of 1 leaves a symbolic one as it is; Reshape takes 0 as the operand's own size and -1 as what is left
    copied = [batch, kv_heads, heads // kv_heads, length, head_dim] if whole else [1, 1, heads // kv_heads, 1, 1]
    joined = [batch, heads, length, head_dim] if whole else [0, heads, -1, head_dim]
    copies = constant_node(np.array(copied, np.int64), f"{stem}.copies")
    group = new_node("Expand", [alone.outputs[0], copies.outputs[0]], [f"{stem}.group"], like=node)
    sizes = constant_node(np.array(joined, np.int64), f"sizes_of.{stem}")
    repeated = new_node("Reshape", [group.outputs[0], sizes.outputs[0]], [stem], like=node)
    graph.insert_before(node, [axis, alone, copies, group, sizes, repeated])
    return repeated.outputs[0]


def _unexpected(what: str) -> InternalError:
    return InternalError(
        "E1323",
        f"eager_attention: {what}",
        fix="run the pass after phase and causal_mask; otherwise report this model",
    )
