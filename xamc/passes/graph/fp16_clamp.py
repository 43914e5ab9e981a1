"""Keeps the constants of a graph inside the range of float16."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from xamc.errors import InternalError
from xamc.ir.onnx_graph import constant_array, constant_node
from xamc.ir.program import Program
from xamc.passes.protocol import NonMatch, PassReport, SameSignature

_LIMIT = float(np.finfo(np.float16).max)
_SMALLEST = float(np.finfo(np.float16).smallest_subnormal)


class Fp16Clamp(SameSignature):
    """Clamps float constants to [-65504, 65504], so that none becomes infinite in float16.

    before: Where(visible, 0, -3.4028e38)
    after:  Where(visible, 0, -65504)

    A constant that is infinite or NaN is refused: clamping would hide that it means something. Attributes are left
    alone, and so is the epsilon of a norm, although 1e-6 is below float16's normal range: norms compute in float32
    on targets of 16-bit activations. A constant operand so small that it becomes 0 in float16 is reported as skipped.
    """

    name = "fp16_clamp"
    # what a mask hides stays hidden: softmax gives 0 for -65504 as for the lowest float32
    tolerance = "exact"

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        graph = program.model.graph
        for node in list(graph):
            value = node.outputs[0]
            array = constant_array(value)
            if array is None or value.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
                continue
            if not np.isfinite(array).all():
                raise InternalError(
                    "E1324",
                    f"fp16_clamp: the constant {value.name!r} is not finite",
                    fix="use a finite number in the mask or the scale that it belongs to; float16 reaches 65504",
                )
            magnitude = np.abs(array)
            if ((magnitude > 0) & (magnitude <= _SMALLEST / 2)).any():
                report.skipped.append(NonMatch(str(value.name), "it becomes 0 in float16"))
            if (magnitude > _LIMIT).any():
                clamped = constant_node(np.clip(array, -_LIMIT, _LIMIT).astype(array.dtype), f"{value.name}.clamped")
                graph.insert_before(node, clamped)
                value.replace_all_uses_with(clamped.outputs[0])
                graph.remove(node, safe=True)
                report.count("constant")
        return report
