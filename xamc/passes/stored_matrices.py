"""Which weights a storage pass may store in fewer bits."""

from __future__ import annotations

import onnx_ir as ir

from xamc.ir.program import Program
from xamc.passes.protocol import NonMatch, PassReport


def float_matrices(program: Program, report: PassReport, vectors: bool = False) -> list[ir.Value]:
    """The weights that a storage pass may store in fewer bits: float32 of rank 2, with `vectors` of rank 1 as well; why
    not the others is noted."""
    matrices = []
    for value in program.weight_inputs():
        assert value.name is not None and value.shape is not None
        wanted = len(value.shape) == 2 or (vectors and len(value.shape) == 1)
        if wanted and value.dtype == ir.DataType.FLOAT:
            matrices.append(value)
            continue
        why = "a norm weight or a bias" if value.dtype == ir.DataType.FLOAT else f"stored as {value.dtype}"
        report.skipped.append(NonMatch(value.name, why))
    return matrices
