"""Recognizes RMS normalization that an export left in pieces."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from xamc.ir.names import MODULE_KEY, WEIGHT_ROLE
from xamc.ir.onnx_graph import constant_array, dims, new_node, remove_dead, scalar, take_over
from xamc.ir.program import Program
from xamc.passes.protocol import NonMatch, PassReport, SameSignature


class Norms(SameSignature):
    """Replaces a spelled-out RMS norm by one `RMSNormalization` (Zhang and Sennrich 2019).

    before: v = ReduceMean(Pow(x, 2), axes=[-1]); r = Sqrt(Add(v, eps)); y = Mul(Div(x, r), weight)
            or with Mul(x, x) for the square, and Mul(x, Reciprocal(r)) for the quotient
    after:  y = RMSNormalization(x, weight, axis=-1, epsilon=eps)
    """

    name = "norms"
    tolerance = "reassociated"

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        graph = program.model.graph
        for node in list(graph):
            if node.op_type != "ReduceMean" or node.domain != "":
                continue
            place = node.metadata_props.get(MODULE_KEY) or node.outputs[0].name or "ReduceMean"
            found = _match(node)
            if isinstance(found, str):
                report.skipped.append(NonMatch(place, found))
                continue
            x, weight, epsilon, last = found
            norm = new_node(
                "RMSNormalization", [x, weight], ["normed"], like=last, axis=-1, epsilon=epsilon, stash_type=1
            )
            graph.insert_before(last, norm)
            take_over(norm.outputs[0], last.outputs[0])
            report.count("norm")
        if report.total:
            remove_dead(program.model)
        return report


def _match(mean: ir.Node) -> tuple[ir.Value, ir.Value, float, ir.Node] | str:
    """(x, weight, epsilon, last node) of the norm around a ReduceMean, or why there is none."""
    axes = constant_array(mean.inputs[1]) if len(mean.inputs) > 1 else None
    if axes is None or not mean.attributes.get_int("keepdims", 1):
        return "the mean's axes are not constant, or it drops the axis"
    square = mean.inputs[0].producer() if mean.inputs[0] is not None else None
    if square is None:
        return "the mean is not taken over a square"
    x = square.inputs[0]
    is_square = (square.op_type == "Pow" and scalar(square.inputs[1]) == 2.0) or (
        square.op_type == "Mul" and square.inputs[1] is x
    )
    shape = dims(x)
    if not is_square or x is None or shape is None:
        return "the mean is not taken over a square"
    if axes.reshape(-1).tolist() not in ([-1], [len(shape) - 1]):
        return f"the mean runs over axes {axes.reshape(-1).tolist()}, not over the last"
    added = _reader(mean.outputs[0], "Add")
    if added is None:
        return "no epsilon is added to the mean"
    epsilon = scalar(_other(added, mean.outputs[0]))
    root = _reader(added.outputs[0], "Sqrt")
    if epsilon is None or root is None:
        return "epsilon is not a constant, or no square root follows"
    quotient = _quotient(x, root.outputs[0])
    if quotient is None:
        return "the square root does not divide the input"
    last = _reader(quotient.outputs[0], "Mul")
    if last is None:
        return "no weight scales the result"
    weight = _other(last, quotient.outputs[0])
    if weight is None or WEIGHT_ROLE not in weight.metadata_props or dims(weight) != shape[-1:]:
        return "the scale is not a weight of the input's last size"
    # the constant is a float32; its shortest decimal form reads better in a dump and is the same number
    return x, weight, float(np.format_float_positional(np.float32(epsilon), unique=True)), last


def _quotient(x: ir.Value, root: ir.Value) -> ir.Node | None:
    division = _reader(root, "Div")
    if division is not None:
        return division if division.inputs[0] is x and division.inputs[1] is root else None
    reciprocal = _reader(root, "Reciprocal")
    product = _reader(reciprocal.outputs[0], "Mul") if reciprocal is not None else None
    if reciprocal is None or product is None or _other(product, reciprocal.outputs[0]) is not x:
        return None
    return product


def _reader(value: ir.Value, op: str) -> ir.Node | None:
    """The only reader of `value`, if it is an `op`."""
    readers = [node for node, _ in value.uses()]
    if len(readers) != 1 or value.is_graph_output() or (readers[0].domain, readers[0].op_type) != ("", op):
        return None
    return readers[0]


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]
