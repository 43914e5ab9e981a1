"""Linear layers that read the same rows become one: q|k|v, and gate|up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax

from xamc.ir.dialect import DialectCall, decode, dialect_call
from xamc.ir.relax_program import RelaxProgram
from xamc.ir.weights.lazy import ConcatRows
from xamc.passes.lowering.body import Body, arguments
from xamc.passes.protocol import NonMatch, PassReport
from xamc.passes.relax.matching import fresh


@dataclass(frozen=True)
class ConcatProjections:
    """One launch and one pass over the activations for projections of the same input.

    Before::

        x -> linear(Wq) -> q        x -> linear(Wk) -> k        x -> linear(Wv) -> v

    After::

        x -> linear([Wq; Wk; Wv]) -> columns(0, Nq) -> q,  columns(Nq, Nq + Nk) -> k,  columns(...) -> v

    The weights stay references: their rows are read one source after the other.
    """

    name: str = "concat_projections"
    tolerance: str = "reassociated"

    def run(self, program: RelaxProgram) -> PassReport:
        """Merges every group of two or more linears with the same input, format and bias."""
        report = PassReport()
        body = Body.of(program.module["main"])
        groups: dict[Any, list[tuple[Any, DialectCall]]] = {}
        for var, value in body.bindings:
            call = decode(value)
            if call is not None and call.name == "linear":
                groups.setdefault(call.tensors[0], []).append((var, call))
        replaced: dict[Any, Any] = {}
        added: list[tuple[Any, Any]] = []
        for members in groups.values():
            if len(members) < 2:
                continue
            if any(call.attributes != members[0][1].attributes for _, call in members):
                names = ", ".join(call.tensors[1].name for _, call in members)
                report.skipped.append(NonMatch(names, "stored in different formats, or only some have a bias"))
                continue
            added += self._merge(program, body, members, replaced)
            report.count("qkv" if len(members) == 3 else "gate_up" if len(members) == 2 else "other")
        body.edit(replaced, added)
        read = {v for _, value in body.bindings for v in arguments(value)}
        body.params = [p for p in body.params if p.name not in program.weights or p in read]
        kept = {p.name for p in body.params}
        program.weights = {name: tensor for name, tensor in program.weights.items() if name in kept}
        body.emit(program.module, "main")
        return report

    @staticmethod
    def _merge(
        program: RelaxProgram, body: Body, members: list[tuple[Any, DialectCall]], replaced: dict[Any, Any]
    ) -> list[tuple[Any, Any]]:
        first = members[0][1]
        name = _merged_name([call.tensors[1].name for _, call in members])
        tensors = [first.tensors[0]]
        for position in range(1, len(first.tensors)):
            sources = [call.tensors[position] for _, call in members]
            suffix = sources[0].name.rsplit(".", 1)[1]
            rows = sum(int(s.ty.shape[0]) for s in sources)
            merged = relax.Var(
                f"{name}.{suffix}", relax.TensorType([rows, *list(sources[0].ty.shape)[1:]], sources[0].ty.dtype)
            )
            program.weights[merged.name] = ConcatRows(tuple(program.weights[s.name] for s in sources))
            body.params.append(merged)
            tensors.append(merged)
        widths = [int(call.types[0].shape[-1]) for _, call in members]
        leading = list(first.types[0].shape)[:-1]
        whole = fresh(name.rsplit(".", 1)[-1], relax.TensorType([*leading, sum(widths)], "float32"))
        bindings = [(whole, dialect_call("linear", tensors, [whole.ty], **first.attributes))]
        start = 0
        for (var, _), width in zip(members, widths, strict=True):
            part = fresh(var.name, var.ty)
            bindings.append((part, dialect_call("columns", [whole], [var.ty], start=start, stop=start + width)))
            replaced[var] = part
            start += width
        return bindings


def _merged_name(names: list[str]) -> str:
    """`a.q_proj.weight`, `a.k_proj.weight` -> `a.q_proj+k_proj`."""
    modules = [name.split(".") for name in names]
    depth = next(i for i in range(len(modules[0])) if len({m[i] for m in modules}) > 1)
    return ".".join([*modules[0][:depth], "+".join(m[depth] for m in modules)])
