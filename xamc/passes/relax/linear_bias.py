"""A bias added to a linear layer's result becomes part of the layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax

from xamc.ir.dialect import is_op
from xamc.ir.relax_program import RelaxProgram
from xamc.passes.lowering.body import Body
from xamc.passes.protocol import NonMatch, PassReport
from xamc.passes.relax.matching import produced_by, rebuilt


@dataclass(frozen=True)
class LinearBias:
    """Before: ``add(linear(x, w), b)`` with b [N] a weight. After: ``linear(x, w, b)``."""

    name: str = "linear_bias"
    tolerance: str = "reassociated"

    def run(self, program: RelaxProgram) -> PassReport:
        """Rewrites every such addition whose linear has no other reader."""
        report = PassReport()
        body = Body.of(program.module["main"])
        users = body.users()
        bindings: list[tuple[Any, Any]] = []
        for var, value in body.bindings:
            new = value
            if is_op(value, "add"):
                for product, bias in (value.args, value.args[::-1]):
                    call = produced_by(body, product, "linear") if isinstance(product, relax.Var) else None
                    is_weight = isinstance(bias, relax.Var) and bias.name in program.weights
                    if call is None or not is_weight or len(bias.ty.shape) != 1:
                        continue
                    if len(users[product]) != 1:
                        report.skipped.append(NonMatch(var.name, "the product is also read without its bias"))
                        continue
                    new = rebuilt(call, [*call.tensors, bias], bias=True)
                    report.count("bias")
            bindings.append((var, new))
        body.bindings = bindings
        body.edit({})
        body.emit(program.module, "main")
        return report
