"""Stores four-bit codes one per byte, for executors without a four-bit type at their boundary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from xamc.ir.names import WEIGHT_ROLE
from xamc.ir.program import Program
from xamc.ir.weights.transforms import Widen
from xamc.passes.protocol import Arrays, PassReport, SameSignature, Tensors


@dataclass(frozen=True)
class ByteCodes(SameSignature):
    """Widens every uint4 weight input to uint8; DequantizeGroups takes either.

    before: xamc::DequantizeGroups(codes uint4, scales, zeros)
    after:  xamc::DequantizeGroups(codes uint8, scales, zeros)
    """

    name: str = "byte_codes"
    tolerance: str = "exact"

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        for value in program.weight_inputs():
            if value.dtype == ir.DataType.UINT4 and value.name is not None:
                value.type = ir.TensorType(ir.DataType.UINT8)
                value.metadata_props[WEIGHT_ROLE] = "uint8"
                if value.name in program.weights:
                    program.weights[value.name] = Widen(program.weights[value.name])
                report.count("weight")
        return report

    def decoded_weights(self, before: Tensors, after: Tensors) -> Arrays:
        """The same codes in the type the graph before takes."""
        return {name: np.asarray(after[name]).astype(array.dtype) for name, array in before.items()}
