"""Recognizes the gated MLP activation SwiGLU."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from xamc.ir.names import MASK_DOMAIN, MODULE_KEY, SWIGLU_OP
from xamc.ir.onnx_graph import Emit, add_function, dims, make_function, new_node, remove_dead, take_over
from xamc.ir.program import Program
from xamc.passes.protocol import NonMatch, PassReport, SameSignature


def swiglu_function() -> ir.Function:
    """SwiGLU(gate [..., I], up [..., I]) -> [..., I]: gate * sigmoid(gate) * up (Shazeer 2020)."""

    def build(emit: Emit, inputs: Sequence[ir.Value]) -> ir.Value:
        gate, up = inputs
        sigmoid = emit("Sigmoid", [gate], "sigmoid")
        silu = emit("Mul", [gate, sigmoid], "silu")
        return emit("Mul", [silu, up], "gated")

    return make_function(SWIGLU_OP, ["gate", "up"], build)


class SwiGlu(SameSignature):
    """Replaces x * sigmoid(x) * y by the model-local function `xamc::SwiGLU(gate, up)`.

    before: s = Sigmoid(gate); a = Mul(gate, s); y = Mul(a, up)
    after:  y = xamc::SwiGLU(gate, up)
    """

    name = "swiglu"
    tolerance = "exact"

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        model = program.model
        for node in list(model.graph):
            if node.op_type != "Sigmoid" or node.domain != "":
                continue
            place = node.metadata_props.get(MODULE_KEY) or node.outputs[0].name or "Sigmoid"
            found = _gated(node)
            if isinstance(found, str):
                report.skipped.append(NonMatch(place, found))
                continue
            product, up = found
            call = new_node(SWIGLU_OP, [node.inputs[0], up], ["gated"], like=product, domain=MASK_DOMAIN)
            model.graph.insert_before(product, call)
            take_over(call.outputs[0], product.outputs[0])
            report.count("swiglu")
        if report.total:
            add_function(model, swiglu_function())
            remove_dead(model)
        return report


def _gated(sigmoid: ir.Node) -> tuple[ir.Node, ir.Value] | str:
    """The last product of a SwiGLU and its other factor, or why `sigmoid` does not belong to one."""
    gate = sigmoid.inputs[0]
    silu = _only_reader(sigmoid.outputs[0], "Mul")
    if silu is None:
        return "the sigmoid is not read by exactly one Mul"
    if gate not in silu.inputs:
        return "the sigmoid is not multiplied with its own argument"
    product = _only_reader(silu.outputs[0], "Mul")
    if product is None:
        return "x * sigmoid(x) is not read by exactly one Mul"
    up = product.inputs[1] if product.inputs[0] is silu.outputs[0] else product.inputs[0]
    if up is silu.outputs[0] or up is None:
        return "x * sigmoid(x) is squared, not gated"
    if dims(up) is None or dims(up) != dims(gate):
        return f"gate {dims(gate)} and up {dims(up)} are broadcast against each other"
    return product, up


def _only_reader(value: ir.Value, op: str) -> ir.Node | None:
    readers = [node for node, _ in value.uses()]
    if len(readers) != 1 or value.is_graph_output() or readers[0].op_type != op or readers[0].domain != "":
        return None
    return readers[0]
