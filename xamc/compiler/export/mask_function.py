"""The model-local function `xamc::SlidingWindowMask`, made of standard operators so that any runtime executes it."""

from __future__ import annotations

import onnx_ir as ir

from xamc.ir.names import MASK_DOMAIN, MASK_OP


def sliding_window_mask_function(opset: int) -> ir.Function:
    """SlidingWindowMask<window>(position_ids int64 [B, S], kv_length int64 []) -> bool [B, 1, S, kv_length].

    True where key j may be seen by the query at position p: j > p - window. Causality is the attention's own.
    """
    positions, kv_length = ir.val("position_ids"), ir.val("kv_length")
    nodes: list[ir.Node] = []

    def emit(op: str, inputs: list[ir.Value], output: str, *attributes: ir.Attr) -> ir.Value:
        node = ir.Node("", op, inputs, attributes, num_outputs=1)
        node.outputs[0].name = output
        nodes.append(node)
        return node.outputs[0]

    window = emit("Constant", [], "window_value", ir.RefAttr("value_int", "window", ir.AttributeType.INT))
    zero = emit("Constant", [], "zero", ir.AttrInt64("value_int", 0))
    one = emit("Constant", [], "one", ir.AttrInt64("value_int", 1))
    axes = emit("Constant", [], "axes", ir.AttrInt64s("value_ints", [1, 3]))
    keys = emit("Range", [zero, kv_length, one], "keys")
    oldest = emit("Sub", [positions, window], "oldest")
    oldest4 = emit("Unsqueeze", [oldest, axes], "oldest_per_query")
    mask = emit("Greater", [keys, oldest4], "mask")
    graph = ir.Graph([positions, kv_length], [mask], nodes=nodes, opset_imports={"": opset}, name=MASK_OP)
    return ir.Function(
        MASK_DOMAIN, MASK_OP, "", graph=graph, attributes=[ir.Attr("window", ir.AttributeType.INT, None)]
    )
