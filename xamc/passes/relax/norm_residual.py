"""A residual addition and the RMSNorm that follows it become one operator with two results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax

from xamc.ir.dialect import dialect_call, is_op
from xamc.ir.relax_program import RelaxProgram
from xamc.passes.lowering.body import Body
from xamc.passes.protocol import PassReport
from xamc.passes.relax.matching import fresh, same_shape


@dataclass(frozen=True)
class NormResidual:
    """RMSNorm in the form that has a kernel, fused with the addition before it where there is one.

    Before::

        h = add(a, b);  n = rms_norm(h, w)          n = rms_norm(x, w)

    After::

        n, h = add_rms_norm(a, b, w)                n = rms_norm(x, w)      (as a dialect call)
    """

    name: str = "norm_residual"
    tolerance: str = "reassociated"

    def run(self, program: RelaxProgram) -> PassReport:
        """Rewrites every `nn.rms_norm` over the last axis."""
        report = PassReport()
        body = Body.of(program.module["main"])
        replaced: dict[Any, Any] = {}
        added: list[tuple[Any, Any]] = []
        for var, value in body.bindings:
            if not is_op(value, "nn.rms_norm"):
                continue
            x, weight = value.args
            epsilon = float(value.attrs.epsilon)
            total = body.producer(x)
            norm = fresh(var.name, var.ty)
            replaced[var] = norm
            if (
                total is not None
                and is_op(total, "add")
                and x not in replaced
                and same_shape(*[a.ty for a in total.args])
            ):
                pair = fresh(f"{x.name}_normed", relax.TupleType([var.ty, x.ty]))
                added.append(
                    (pair, dialect_call("add_rms_norm", [*total.args, weight], [var.ty, x.ty], epsilon=epsilon))
                )
                added.append((norm, relax.TupleGetItem(pair, 0)))
                replaced[x] = fresh(x.name, x.ty)
                added.append((replaced[x], relax.TupleGetItem(pair, 1)))
                report.count("add_rms_norm")
            else:
                added.append((norm, dialect_call("rms_norm", [x, weight], [var.ty], epsilon=epsilon)))
                report.count("rms_norm")
        body.edit(replaced, added)
        body.emit(program.module, "main")
        return report
