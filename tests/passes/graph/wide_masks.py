"""The inverse of the `fp16_clamp` pass: masks with the lowest float32, as tracing in float32 makes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xamc.ir.onnx_graph import constant_array, constant_node
from xamc.ir.program import Program
from xamc.passes.protocol import PassReport, SameSignature


@dataclass(frozen=True)
class WideMasks(SameSignature):
    """Replaces every float constant of at most -65504 by another number."""

    low: float = float(np.finfo(np.float32).min)
    name: str = "wide_masks"
    tolerance: str = "exact"

    def run(self, program: Program) -> PassReport:
        report, graph = PassReport(), program.model.graph
        for node in list(graph):
            array = constant_array(node.outputs[0])
            if array is not None and array.dtype == np.float32 and (array <= -65504).any():
                wide = constant_node(np.full_like(array, self.low), f"{node.outputs[0].name}.wide")
                graph.insert_before(node, wide)
                node.outputs[0].replace_all_uses_with(wide.outputs[0])
                graph.remove(node, safe=True)
                report.count("constant")
        return report
