"""SwiGLU reads gate and up straight from the row of the merged projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xamc.ir.dialect import decode, dialect_call
from xamc.ir.relax_program import RelaxProgram
from xamc.passes.lowering.body import Body
from xamc.passes.protocol import NonMatch, PassReport
from xamc.passes.relax.matching import produced_by


@dataclass(frozen=True)
class PackedSwiGLU:
    """Before: ``swiglu(columns(y, 0, I), columns(y, I, 2I))``. After: ``swiglu_packed(y)``."""

    name: str = "packed_swiglu"
    tolerance: str = "exact"

    def run(self, program: RelaxProgram) -> PassReport:
        """Rewrites every SwiGLU whose operands are the two halves of one value."""
        report = PassReport()
        body = Body.of(program.module["main"])
        bindings: list[tuple[Any, Any]] = []
        for var, value in body.bindings:
            call = decode(value)
            if call is not None and call.name == "swiglu":
                gate, up = (produced_by(body, t, "columns") for t in call.tensors)
                if gate is None or up is None or not gate.tensors[0].same_as(up.tensors[0]):
                    report.skipped.append(NonMatch(var.name, "gate and up are not columns of one value"))
                elif gate.attributes["start"] != 0 or gate.attributes["stop"] != up.attributes["start"]:
                    report.skipped.append(NonMatch(var.name, "gate and up are not stored in that order"))
                else:
                    value = dialect_call("swiglu_packed", [gate.tensors[0]], [var.ty])
                    report.count("swiglu")
            bindings.append((var, value))
        body.bindings = bindings
        body.edit({})
        body.emit(program.module, "main")
        return report
