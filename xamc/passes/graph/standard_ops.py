"""Writes a graph in the operators of an old opset: what toolchains of the years before 2024 read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from xamc.errors import InternalError
from xamc.ir.names import MODULE_KEY, OLDER_OPSETS, OPSET
from xamc.ir.onnx_graph import (
    constant_array,
    constant_node,
    infer_types_and_shapes,
    new_node,
    remove_dead,
    take_over,
)
from xamc.ir.program import Program
from xamc.passes.protocol import PassReport, SameSignature

# Reductions whose axes became an input in opset 18.
_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare")
# Attributes that later opsets added, with the only value that means what the older operator does.
_DROPPED: dict[str, dict[str, int | None]] = {"Cast": {"saturate": 1, "round_mode": None}, "Reshape": {"allowzero": 0}}


@dataclass(frozen=True)
class StandardOps(SameSignature):
    """Calls of model-local functions are inlined, `RMSNormalization` is spelled out, and forms newer than `opset` are
    rewritten, so that the model needs nothing but standard operators of that opset.

        before: y = RMSNormalization(x, weight, axis=-1, epsilon=eps);   z = xamc::SwiGLU(gate, up)
        after:  v = ReduceMean(Pow(x, 2), axes=[-1]);  r = Div(1, Sqrt(Add(v, eps)));  y = Mul(weight, Mul(x, r))
                z = Mul(Mul(gate, Sigmoid(gate)), up)

    Constants hold a tensor, and axes of reductions are attributes. The spelled-out norm is, node for node, what
    PyTorch's TorchScript exporter makes of transformers' LlamaRMSNorm, which compilers that look for norms know. It is
    the last pass of a hand-off: other passes speak the newer operators.

    Args:
        opset: 14 to 17.
    """

    opset: int = 14
    name: str = "standard_ops"
    # 1 / sqrt(v) * x is rounded once more than x / sqrt(v)
    tolerance: str = "reassociated"

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        model = program.model
        for node in list(model.graph):
            if node.op_identifier() in model.functions:
                _inline(model, node)
                report.count("function")
        for node in [node for node in model.graph if node.op_type == "RMSNormalization" and node.domain == ""]:
            _spell_out_norm(model.graph, node)
            report.count("norm")
        for rule, count in rewrite_forms(model, self.opset).items():
            report.count(rule, count)
        infer_types_and_shapes(model)
        return report


def rewrite_forms(model: ir.Model, opset: int) -> dict[str, int]:
    """Undoes what opsets after `opset` changed in the form of operators, and declares that opset.

    Returns:
        Number of rewrites by rule.

    Raises:
        InternalError: E1457 what has no older form.
    """
    counts: Counter[str] = Counter()
    for node in list(model.graph):
        if node.domain != "":
            continue
        if node.op_type in _REDUCTIONS and len(node.inputs) > 1:
            _axes_as_attribute(node)
            counts["reduction"] += 1
        elif node.op_type == "Split" and "num_outputs" in node.attributes:
            # equal parts, one per output: what the older operator does without the attribute
            node.attributes.pop("num_outputs")
            counts["split"] += 1
        elif node.op_type == "Constant":
            _constant_as_tensor(node)
        for name, meaningless in _DROPPED.get(node.op_type, {}).items():
            found = node.attributes.get(name)
            if found is not None and (meaningless is None or found.value == meaningless):
                node.attributes.pop(name)
    remove_dead(model)
    model.graph.opset_imports[""] = opset
    model.ir_version = OLDER_OPSETS[opset]
    _require_standard(model, opset)
    return dict(counts)


def _inline(model: ir.Model, call: ir.Node) -> None:
    """Puts a copy of the function's body in the place of `call`, its inner values named after the call's output."""
    function = model.functions[call.op_identifier()]
    values: dict[ir.Value | None, ir.Value | None] = {
        None: None,
        **dict(zip(function.inputs, call.inputs, strict=True)),
    }
    prefix = call.outputs[0].name
    for inner in function:
        copy = ir.node(
            inner.op_type,
            [values[value] for value in inner.inputs],
            dict(inner.attributes.items()),
            domain=inner.domain,
            num_outputs=len(inner.outputs),
        )
        if MODULE_KEY in call.metadata_props:
            copy.metadata_props[MODULE_KEY] = call.metadata_props[MODULE_KEY]
        for old, new in zip(inner.outputs, copy.outputs, strict=True):
            new.name = f"{prefix}.{old.name}"
            values[old] = new
        model.graph.insert_before(call, copy)
    for result, output in zip(function.outputs, list(call.outputs), strict=True):
        computed = values[result]
        assert computed is not None
        take_over(computed, output)
    model.graph.remove(call, safe=True)


def _spell_out_norm(graph: ir.Graph, norm: ir.Node) -> None:
    x, weight = norm.inputs[0], norm.inputs[1]
    result = norm.outputs[0]
    rank = len(x.shape) if x is not None and x.shape is not None else 0
    if norm.attributes.get_int("axis", -1) not in (-1, rank - 1) or norm.attributes.get_int("stash_type", 1) != 1:
        raise InternalError("E1457", f"{result.name}: only norms over the last axis, summed in fp32, are spelled out")
    prefix = result.name
    two = constant_node(np.array(2.0, np.float32), f"{prefix}.two")
    epsilon = constant_node(np.array(norm.attributes.get_float("epsilon", 1e-5), np.float32), f"{prefix}.epsilon")
    one = constant_node(np.array(1.0, np.float32), f"{prefix}.one")
    square = new_node("Pow", [x, two.outputs[0]], [f"{prefix}.square"], like=norm)
    mean = new_node("ReduceMean", [square.outputs[0]], [f"{prefix}.mean"], like=norm, axes=[-1], keepdims=1)
    shifted = new_node("Add", [mean.outputs[0], epsilon.outputs[0]], [f"{prefix}.shifted"], like=norm)
    root = new_node("Sqrt", [shifted.outputs[0]], [f"{prefix}.root"], like=norm)
    inverse = new_node("Div", [one.outputs[0], root.outputs[0]], [f"{prefix}.inverse"], like=norm)
    scaled = new_node("Mul", [x, inverse.outputs[0]], [f"{prefix}.scaled"], like=norm)
    last = new_node("Mul", [weight, scaled.outputs[0]], [f"{prefix}.spelled_out"], like=norm)
    graph.insert_before(norm, [two, square, mean, epsilon, shifted, root, one, inverse, scaled, last])
    take_over(last.outputs[0], result)
    graph.remove(norm, safe=True)


def _constant_as_tensor(node: ir.Node) -> None:
    """The one form that every tool reads: onnx's optimizer demands the attribute `value`."""
    array = constant_array(node.outputs[0])
    if array is None:
        raise InternalError("E1457", f"the constant {node.outputs[0].name!r} holds no number")
    node.attributes.clear()
    node.attributes.add(ir.AttrTensor("value", ir.tensor(array)))


def _axes_as_attribute(node: ir.Node) -> None:
    axes = constant_array(node.inputs[1])
    if axes is None:
        raise InternalError("E1457", f"{node.op_type} {node.outputs[0].name!r}: its axes are computed at run time")
    node.replace_input_with(1, None)
    node.resize_inputs(1)
    node.attributes.pop("noop_with_empty_axes", None)
    node.attributes.add(ir.AttrInt64s("axes", [int(axis) for axis in axes.reshape(-1)]))


def _require_standard(model: ir.Model, opset: int) -> None:
    """Refuses what the opset has no operator, attribute or input for.

    Raises:
        InternalError: E1457 listing every such node.
    """
    problems = []
    for node in model.graph:
        place = f"{node.domain or 'ai.onnx'}::{node.op_type} {node.outputs[0].name!r}"
        if node.domain != "" or not onnx.defs.has(node.op_type, max_inclusive_version=opset):
            problems.append(f"{place} is not an operator of opset {opset}")
            continue
        schema = onnx.defs.get_schema(node.op_type, max_inclusive_version=opset)
        unknown = sorted(set(node.attributes) - set(schema.attributes))
        if unknown:
            problems.append(f"{place} has the attributes {unknown}, which opset {opset} doesn't know")
        if len(node.inputs) > schema.max_input or len(node.outputs) > schema.max_output:
            problems.append(f"{place} has more inputs or outputs than in opset {opset}")
    if problems:
        raise InternalError(
            "E1457",
            f"the graph can't be written in opset {opset}: {problems[0]}",
            fix=f"a pass before standard_ops has to decompose it; the graph speaks opset {OPSET}",
            details=tuple(problems),
        )
