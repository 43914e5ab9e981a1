"""The inverse of the `norms` pass: spells every RMS norm out, as an unpatched export does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xamc.ir.onnx_graph import constant_node, infer_types_and_shapes, new_node, take_over
from xamc.ir.program import Program
from xamc.passes.protocol import PassReport, SameSignature


@dataclass(frozen=True)
class OpenNorms(SameSignature):
    """Writes y = x / sqrt(mean(x^2) + eps) * w with Pow and Div, or with Mul and Reciprocal."""

    reciprocal: bool = False
    axis: int = -1
    name: str = "open_norms"
    tolerance: str = "reassociated"

    def run(self, program: Program) -> PassReport:
        report, graph = PassReport(), program.model.graph
        for norm in [node for node in graph if node.op_type == "RMSNormalization"]:
            x, weight = norm.inputs
            stem = norm.outputs[0].name
            epsilon = constant_node(np.array(norm.attributes["epsilon"].as_float(), np.float32), f"{stem}.eps")
            axes = constant_node(np.array([self.axis], np.int64), f"{stem}.axes")
            two = constant_node(np.array(2.0, np.float32), f"{stem}.two")
            power = ("Mul", [x, x]) if self.reciprocal else ("Pow", [x, two.outputs[0]])
            square = new_node(*power, [f"{stem}.square"], like=norm)
            mean = new_node("ReduceMean", [square.outputs[0], axes.outputs[0]], [f"{stem}.mean"], like=norm, keepdims=1)
            added = new_node("Add", [mean.outputs[0], epsilon.outputs[0]], [f"{stem}.added"], like=norm)
            root = new_node("Sqrt", [added.outputs[0]], [f"{stem}.root"], like=norm)
            new = [epsilon, axes, two, square, mean, added, root]
            if self.reciprocal:
                new.append(new_node("Reciprocal", [root.outputs[0]], [f"{stem}.inverse"], like=norm))
                new.append(new_node("Mul", [x, new[-1].outputs[0]], [f"{stem}.quotient"], like=norm))
                new.append(new_node("Mul", [weight, new[-1].outputs[0]], [f"{stem}.scaled"], like=norm))
            else:
                new.append(new_node("Div", [x, root.outputs[0]], [f"{stem}.quotient"], like=norm))
                new.append(new_node("Mul", [new[-1].outputs[0], weight], [f"{stem}.scaled"], like=norm))
            graph.insert_before(norm, new)
            take_over(new[-1].outputs[0], norm.outputs[0])
            graph.remove(norm, safe=True)
            report.count("norm")
        infer_types_and_shapes(program.model)
        return report
