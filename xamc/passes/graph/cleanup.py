"""Folds what is constant, and removes what nothing needs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
from numpy.typing import NDArray

from xamc.ir.names import OPSET
from xamc.ir.onnx_graph import constant_array, constant_node, dims, infer_types_and_shapes, remove_dead
from xamc.ir.program import Program
from xamc.passes.protocol import NonMatch, PassReport, SameSignature

Dim = int | str | None

_FOLD_LIMIT = 4096


class Cleanup(SameSignature):
    """Constant folding, Identity and Cast removal, common subexpressions, dead nodes, and static Reshape shapes.

    An export computes the shape of every Reshape at run time, from sizes that its input already has:

        before: Reshape(x [batch, seq, 64], Concat(Shape(ids)[0], Shape(ids)[1], -1, 16))
        after:  Reshape(x, [0, 0, 4, 16])            0 keeps the input's dimension

    Weights are graph inputs, so nothing here reads or folds one.
    """

    name = "cleanup"
    tolerance = "exact"

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        model = program.model
        infer_types_and_shapes(model)
        for node in list(model.graph):
            if _forwards_its_input(node):
                node.outputs[0].replace_all_uses_with(node.inputs[0])
                report.count("identity")
        self._static_shapes(model, report)
        self._fold(model, report)
        self._merge_equal_nodes(model, report)
        removed = remove_dead(model)
        if removed:
            report.count("dead", removed)
        return report

    def _static_shapes(self, model: ir.Model, report: PassReport) -> None:
        vectors: dict[ir.Value, tuple[Dim, ...]] = {}
        for node in list(model.graph):
            vector = _dimension_vector(node, vectors)
            if vector is not None:
                vectors[node.outputs[0]] = vector
            if node.op_type != "Reshape" or node.domain != "" or node.inputs[0] in vectors:
                continue
            if constant_array(node.inputs[1]) is not None:
                continue
            place = node.outputs[0].name or "Reshape"
            target = vectors.get(node.inputs[1]) if node.inputs[1] is not None else None
            source = dims(node.inputs[0])
            if target is None or source is None:
                report.skipped.append(NonMatch(place, "its shape is computed from data, not from sizes"))
                continue
            shape = _static_reshape(source, target)
            if shape is None:
                report.skipped.append(NonMatch(place, f"no static form of {list(target)} for an input {list(source)}"))
                continue
            constant = constant_node(np.array(shape, np.int64), f"shape_of.{place}")
            model.graph.insert_before(node, constant)
            node.replace_input_with(1, constant.outputs[0])
            node.attributes.pop("allowzero", None)
            report.count("reshape_shape")

    def _fold(self, model: ir.Model, report: PassReport) -> None:
        for node in list(model.graph):
            if node.domain != "" or node.op_type == "Constant" or len(node.outputs) != 1 or not node.inputs:
                continue
            arrays = [constant_array(value) for value in node.inputs]
            size = dims(node.outputs[0])
            if any(array is None for array in arrays) or size is None or node.outputs[0].is_graph_output():
                continue
            sizes = [dim for dim in size if isinstance(dim, int)]
            if len(sizes) < len(size) or int(np.prod(sizes)) > _FOLD_LIMIT:
                continue
            result = _evaluate(node, [array for array in arrays if array is not None])
            folded = constant_node(result, f"{node.outputs[0].name}.folded")
            model.graph.insert_before(node, folded)
            node.outputs[0].replace_all_uses_with(folded.outputs[0])
            report.count("constant")

    def _merge_equal_nodes(self, model: ir.Model, report: PassReport) -> None:
        seen: dict[object, ir.Node] = {}
        for node in list(model.graph):
            key = (
                node.op_identifier(),
                tuple(id(value) for value in node.inputs),
                tuple(sorted((name, _attribute_key(attribute)) for name, attribute in node.attributes.items())),
                len(node.outputs),
            )
            first = seen.setdefault(key, node)
            if first is node or any(value.is_graph_output() for value in node.outputs):
                continue
            for mine, theirs in zip(node.outputs, first.outputs, strict=True):
                mine.replace_all_uses_with(theirs)
            report.count("common_subexpression")


def _forwards_its_input(node: ir.Node) -> bool:
    if node.domain != "" or not node.inputs or node.inputs[0] is None or node.outputs[0].is_graph_output():
        return False
    if node.op_type == "Identity":
        return True
    source = node.inputs[0].dtype
    return node.op_type == "Cast" and source is not None and int(source) == node.attributes["to"].as_int()


def _dimension_vector(node: ir.Node, known: dict[ir.Value, tuple[Dim, ...]]) -> tuple[Dim, ...] | None:
    """The sizes in an integer scalar or vector that is made of input shapes and constants; None for other values."""
    if node.domain != "" or len(node.outputs) != 1:
        return None
    constant = constant_array(node.outputs[0])
    if constant is not None:
        return tuple(int(x) for x in constant.reshape(-1)) if constant.dtype == np.int64 and constant.ndim < 2 else None
    operands = [known.get(value) for value in node.inputs if value is not None]
    match node.op_type:
        case "Shape":
            shape = dims(node.inputs[0])
            if shape is None:
                return None
            start = node.attributes["start"].as_int() if "start" in node.attributes else 0
            end = node.attributes["end"].as_int() if "end" in node.attributes else len(shape)
            return shape[start:end]
        case "Squeeze" | "Unsqueeze" | "Reshape" | "Cast":
            # of one number or of a vector to itself: the contents stay
            return operands[0]
        case "Concat":
            if any(part is None for part in operands):
                return None
            return tuple(dim for part in operands if part is not None for dim in part)
    return None


def _static_reshape(source: tuple[Dim, ...], target: tuple[Dim, ...]) -> list[int] | None:
    """`target` written with integers: 0 where it keeps the source's dimension, at most one -1; None if impossible."""
    if any(dim is None or dim == 0 for dim in target):
        return None
    shape: list[int] = []
    for axis, dim in enumerate(target):
        if isinstance(dim, int):
            shape.append(dim)
        elif axis < len(source) and source[axis] == dim:
            shape.append(0)
        else:
            shape.append(-1)
    if -1 in target and None not in source:
        left = Counter(dim for dim in source if isinstance(dim, str))
        left.subtract(dim for dim in target if isinstance(dim, str))
        have = int(np.prod([dim for dim in source if isinstance(dim, int)], dtype=np.int64))
        want = int(np.prod([dim for dim in target if isinstance(dim, int) and dim != -1], dtype=np.int64))
        if not any(left.values()) and want and have % want == 0:
            shape[target.index(-1)] = have // want
    return shape if shape.count(-1) <= 1 else None


def _evaluate(node: ir.Node, arrays: list[NDArray[np.generic]]) -> NDArray[np.generic]:
    """One node's result by ONNX's reference evaluator."""
    names = [f"in{i}" for i in range(len(arrays))]
    proto = ir.serde.serialize_node(node)
    del proto.input[:], proto.output[:]
    proto.input.extend(names)
    proto.output.append("out")
    dtype = onnx.helper.np_dtype_to_tensor_dtype
    inputs = [
        onnx.helper.make_tensor_value_info(name, dtype(array.dtype), array.shape)
        for name, array in zip(names, arrays, strict=True)
    ]
    outputs = [onnx.helper.make_tensor_value_info("out", onnx.TensorProto.UNDEFINED, None)]
    graph = onnx.helper.make_graph([proto], "fold", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    function = onnx.reference.ReferenceEvaluator(model)
    return np.asarray(function.run(None, dict(zip(names, arrays, strict=True)))[0])


def _attribute_key(attribute: ir.Attr) -> str:
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return f"{tensor.dtype}{list(tensor.shape)}{tensor.tobytes().hex()}"
    return f"{attribute.type}{attribute.value}"
