"""All passes of a static graph, as a target lists them, for tests."""

from __future__ import annotations

from xamc.ir.onnx_graph import static_dims
from xamc.ir.program import Program
from xamc.model.bucket import Bucket
from xamc.passes.protocol import GraphPass
from xamc.targets.buckets import common_passes
from xamc.targets.vacc.passes import bucket_passes

PLAIN_OPERATORS = {
    "Add",
    "And",
    "Concat",
    "Constant",
    "Expand",
    "Gather",
    "Greater",
    "MatMul",
    "Mul",
    "Neg",
    "RMSNormalization",
    "Reshape",
    "Slice",
    "Softmax",
    "Sub",
    "SwiGLU",
    "Transpose",
    "Unsqueeze",
    "Where",
}
"""What a static graph consists of before its weights are stored in fewer bits and its ranks are split."""


def static_passes(bucket: Bucket) -> list[GraphPass]:
    """The passes that make one static graph out of an export, in order."""
    return [*common_passes(), *bucket_passes(bucket)]


def structure_problems(program: Program) -> list[str]:
    """What is not plain in a static graph: other operators, shapes that are not all numbers, or computed ones."""
    problems = []
    for value in [*program.model.graph.inputs, *(v for node in program.model.graph for v in node.outputs)]:
        if static_dims(value) is None or 0 in (static_dims(value) or ()):
            problems.append(f"{value.name} has no static shape")
    for node in program.model.graph:
        if node.op_type not in PLAIN_OPERATORS:
            problems.append(f"{node.op_type} {node.outputs[0].name}")
        operand = node.inputs[1] if node.op_type in ("Reshape", "Expand") else None
        if operand is not None and (operand.producer() is None or operand.producer().op_type != "Constant"):
            problems.append(f"{node.outputs[0].name} computes its sizes")
    return problems
