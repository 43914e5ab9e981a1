"""Makes a graph compute in float16, but for the norms and the softmax."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from xamc.errors import InternalError
from xamc.ir.names import WEIGHT_ROLE
from xamc.ir.onnx_graph import constant_array, constant_node, new_node, remove_dead
from xamc.ir.program import Program
from xamc.passes.protocol import Arrays, PassReport, Tensors

# Their sums and exponentials need float32's range and precision.
_WIDE = ("RMSNormalization", "Softmax")
_LIMIT = float(np.finfo(np.float16).max)


class HalfPrecision:
    """Turns every float32 value into a float16 one, inputs and outputs included, around islands of float32.

        before: y = MatMul(x, Transpose(Cast<float32>(weight float16)));  z = Softmax(Add(y, mask))
        after:  y float16 = MatMul(x float16, Transpose(weight))
                z float16 = Cast<float16>(Softmax(Add(Cast<float32>(y), Cast<float32>(mask))))

    RMSNormalization and Softmax keep float32 inside, and so does the sum of scores and mask, which would leave
    float16's range where a score below 0 meets -65504. Every weight has to be stored as float16, and every constant
    has to lie within ±65504 (`weight_storage` with vectors, and `fp16_clamp`, run before).
    """

    name = "half_precision"
    tolerance = "float16_operators"

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        model, graph = program.model, program.model.graph
        for value in graph.inputs:
            if value.dtype == ir.DataType.FLOAT and WEIGHT_ROLE in value.metadata_props:
                raise _unexpected(f"the weight {value.name!r} is stored as float32")
        for node in list(graph):
            if node.op_type == "Cast" and node.domain == "":
                _drop_cast(graph, node)
            elif node.op_type == "Constant" and node.outputs[0].dtype == ir.DataType.FLOAT:
                _narrow_constant(graph, node)
        for value in graph.inputs:
            _narrow(value)
        masked = {node for node in graph if _is_masked_score(node)}
        wide: dict[ir.Value, ir.Value] = {}
        for node in list(graph):
            if node in masked:
                _widen_operands(graph, node, wide)
                report.count("float32_mask")
            elif node.op_type in _WIDE and node.domain == "":
                _widen_operands(graph, node, wide)
                _narrow_result(graph, node)
                report.count("float32_island")
            else:
                for value in node.outputs:
                    if value.dtype == ir.DataType.FLOAT:
                        _narrow(value)
                        report.count("value")
        remove_dead(model)
        return report

    def adapt(self, feeds: Tensors, fetches: Tensors) -> tuple[Arrays, Arrays]:
        """The same call with caches in float16."""
        new_feeds = {
            name: np.asarray(array, np.float16) if array.dtype == np.float32 else np.asarray(array)
            for name, array in feeds.items()
        }
        return new_feeds, dict(fetches)


def _narrow(value: ir.Value) -> None:
    if value.dtype == ir.DataType.FLOAT:
        value.type = ir.TensorType(ir.DataType.FLOAT16)


def _drop_cast(graph: ir.Graph, node: ir.Node) -> None:
    """The casts that widen stored weights; who reads a weight reads float16 now."""
    source = node.inputs[0]
    if source is None or source.dtype != ir.DataType.FLOAT16 or node.outputs[0].dtype != ir.DataType.FLOAT:
        raise _unexpected(f"Cast {node.outputs[0].name!r} widens no float16 value")
    node.outputs[0].replace_all_uses_with(source)
    graph.remove(node, safe=True)


def _narrow_constant(graph: ir.Graph, node: ir.Node) -> None:
    array = constant_array(node.outputs[0])
    if array is None or not (np.abs(array) <= _LIMIT).all():
        raise _unexpected(f"the constant {node.outputs[0].name!r} is beyond float16")
    half = constant_node(array.astype(np.float16), f"{node.outputs[0].name}.half")
    graph.insert_before(node, half)
    node.outputs[0].replace_all_uses_with(half.outputs[0])
    graph.remove(node, safe=True)


def _is_masked_score(node: ir.Node) -> bool:
    """Whether `node` adds a mask to scores for a Softmax, and for nothing else."""
    uses = list(node.outputs[0].uses())
    return node.op_type == "Add" and len(uses) == 1 and uses[0][0].op_type == "Softmax"


def _widen_operands(graph: ir.Graph, node: ir.Node, wide: dict[ir.Value, ir.Value]) -> None:
    """Casts the float16 operands of `node`, each value once in the graph."""
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype != ir.DataType.FLOAT16:
            continue
        if value not in wide:
            cast = new_node("Cast", [value], [f"{value.name}.wide"], like=node, to=int(ir.DataType.FLOAT))
            cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), value.shape
            graph.insert_before(node, cast)
            wide[value] = cast.outputs[0]
        node.replace_input_with(index, wide[value])


def _narrow_result(graph: ir.Graph, node: ir.Node) -> None:
    result = node.outputs[0]
    half = new_node("Cast", [result], [f"{result.name}.half"], like=node, to=int(ir.DataType.FLOAT16))
    half.outputs[0].type, half.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT16), result.shape
    result.replace_all_uses_with(half.outputs[0])
    half.replace_input_with(0, result)
    graph.insert_after(node, half)


def _unexpected(what: str) -> InternalError:
    return InternalError(
        "E1327",
        f"half_precision: {what}",
        fix="run weight_storage with vectors and fp16_clamp before it; otherwise report this model",
    )
