"""Dequantize + transpose + matmul, and dequantize + gather, as one operator that keeps the stored weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax

from xamc.ir.dialect import decode, dialect_call, is_op
from xamc.ir.relax_program import RelaxProgram
from xamc.passes.lowering.body import Body
from xamc.passes.protocol import NonMatch, PassReport


@dataclass(frozen=True)
class DequantizeMatmul:
    """A linear layer or an embedding lookup reads its weight in the form it is stored in.

    Before::

        codes, scales, zeros -> dequantize -> permute_dims -> matmul(x, .)     (or astype instead of dequantize,
                                           -> take(., ids)                      or the float32 weight itself)

    After::

        linear(x, codes, scales, zeros)        embedding(ids, codes, scales, zeros)
    """

    name: str = "dequantize_matmul"
    tolerance: str = "reassociated"

    def run(self, program: RelaxProgram) -> PassReport:
        """Rewrites every matmul and take whose weight is a parameter."""
        report = PassReport()
        body = Body.of(program.module["main"])
        body.bindings = [(var, _rewritten(body, program, report, var, value)) for var, value in body.bindings]
        body.edit({})
        body.emit(program.module, "main")
        return report


def _rewritten(body: Body, program: RelaxProgram, report: PassReport, var: Any, value: Any) -> Any:
    if is_op(value, "matmul"):
        x, transposed = value.args
        turn = body.producer(transposed)
        stored = _stored(body, program, turn.args[0]) if turn is not None and is_op(turn, "permute_dims") else None
        if stored is None:
            report.skipped.append(NonMatch(var.name, "the right operand is not a transposed stored weight"))
            return value
        tensors, format = stored
        report.count("linear")
        return dialect_call("linear", [x, *tensors], [var.ty], format=format, bias=False, residual=False)
    if is_op(value, "take"):
        stored = _stored(body, program, value.args[0])
        if stored is None:
            report.skipped.append(NonMatch(var.name, "the table is not a stored weight"))
            return value
        tensors, format = stored
        report.count("embedding")
        return dialect_call("embedding", [value.args[1], *tensors], [var.ty], format=format)
    return value


def _stored(body: Body, program: RelaxProgram, weight: Any) -> tuple[list[Any], dict[str, Any]] | None:
    """The parameters behind a float32 weight value, and their format."""
    if not isinstance(weight, relax.Var):
        return None
    value = body.producer(weight)
    if value is None:
        known = weight.name in program.weights
        return ([weight], {"kind": "float32", "group": None}) if known else None
    if is_op(value, "astype"):
        source = value.args[0]
        if body.producer(source) is None and source.name in program.weights:
            return [source], {"kind": str(source.ty.dtype), "group": None}
        return None
    call = decode(value)
    if call is None or call.name != "dequantize":
        return None
    tensors = [_parameter(body, tensor) for tensor in call.tensors]
    return tensors, {"kind": call.attributes["kind"], "group": call.attributes["group"]}


def _parameter(body: Body, var: Any) -> Any:
    """The parameter behind `var`, looking through a cast of the scales."""
    value = body.producer(var)
    return value.args[0] if value is not None and is_op(value, "astype") else var
