"""Exchange between ranks as model-local functions, so that a rank's graph stays an ordinary ONNX graph."""

from __future__ import annotations

import onnx_ir as ir

from xamc.ir.names import ALL_GATHER_OP, ALL_REDUCE_OP, MASK_DOMAIN, OPSET
from xamc.ir.onnx_graph import new_node


def all_reduce_function() -> ir.Function:
    """AllReduce(x) -> y of the same shape: the sum of all ranks' x, on every rank.

    The body is what a single rank is to itself, Identity: it gives the operator a type and a shape and lets a rank's
    graph be checked and run alone. Executors replace the call, and never execute the body.
    """
    x = ir.val("x")
    node = new_node("Identity", [x], ["y"])
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": OPSET}, name=ALL_REDUCE_OP)
    return ir.Function(MASK_DOMAIN, ALL_REDUCE_OP, "", graph=graph, attributes=[])


def all_gather_function(tp: int) -> ir.Function:
    """AllGather<axis>(x) -> y: all ranks' x one after the other along `axis`, in the order of ranks, on every rank.

    The body puts a rank's own x in every rank's place, which has the right shape; see `all_reduce_function`.
    """
    x = ir.val("x")
    node = ir.Node("", "Concat", [x] * tp, [ir.RefAttr("axis", "axis", ir.AttributeType.INT)], num_outputs=1)
    node.outputs[0].name = "y"
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": OPSET}, name=ALL_GATHER_OP)
    return ir.Function(
        MASK_DOMAIN, ALL_GATHER_OP, "", graph=graph, attributes=[ir.Attr("axis", ir.AttributeType.INT, None)]
    )
