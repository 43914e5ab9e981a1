from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from xamc.compiler.frontends.onnx.liveness import peak_activation_bytes

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def test_values_are_counted_while_they_live() -> None:
    """x, a and y all along or while needed: at the wide node 4 + 400 + 800 + 4 bytes, weights aside."""
    import numpy as np

    nodes = [
        helper.make_node("Expand", ["x", "size"], ["a"]),  # 100 floats
        helper.make_node("Concat", ["a", "a"], ["b"], axis=0),  # 200 floats
        helper.make_node("ReduceMax", ["b"], ["c"], keepdims=0),  # one
        helper.make_node("Cast", ["c"], ["y"], to=INT64),  # one int64
        helper.make_node("Mul", ["c", "w"], ["unused"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [1])],
        [helper.make_tensor_value_info("y", INT64, [])],
        [numpy_helper.from_array(np.array([100]), "size"), numpy_helper.from_array(np.ones(3, np.float32), "w")],
    )
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )
    for name, shape in (("a", [100]), ("b", [200])):
        if not any(value.name == name for value in model.graph.value_info):
            model.graph.value_info.append(helper.make_tensor_value_info(name, FLOAT, shape))
    # x and y throughout; beside them a and b, or b and c, or c and the value that nobody reads
    assert peak_activation_bytes(ir.from_proto(model)) == (4 + 8) + 400 + 800
