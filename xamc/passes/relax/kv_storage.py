"""The KV cache in 16 bits: keys and values are rounded when they are written, and widened when they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax

from xamc.ir.dialect import decode, dialect_call
from xamc.ir.relax_program import RelaxProgram
from xamc.passes.lowering.body import Body
from xamc.passes.protocol import NonMatch, PassReport
from xamc.passes.relax.matching import fresh


@dataclass(frozen=True)
class KvStorage:
    """Before: float32 caches. After: caches of `dtype`; every operator between them keeps computing in float32."""

    dtype: str
    name: str = "kv_storage"

    @property
    def tolerance(self) -> str:
        """`rounding_noise`, as keys and values are rounded on purpose; `exact` where nothing is."""
        return "exact" if self.dtype == "float32" else "rounding_noise"

    def run(self, program: RelaxProgram) -> PassReport:
        """Retypes the cache parameters and the results of every `rope_kv_write`."""
        report = PassReport()
        body = Body.of(program.module["main"])
        if self.dtype == "float32":
            return report
        writes = [var for var, value in body.bindings if (c := decode(value)) is not None and c.name == "rope_kv_write"]
        caches = [p for p in body.params if p.name.startswith("cache_")]
        if 2 * len(writes) != len(caches):
            report.skipped.append(NonMatch("caches", f"{len(caches)} caches, but {len(writes)} fused cache updates"))
            return report
        replaced: dict[Any, Any] = {}
        added: list[tuple[Any, Any]] = []
        for cache in caches:
            replaced[cache] = relax.Var(cache.name, relax.TensorType(list(cache.ty.shape), self.dtype))
        for var, value in body.bindings:
            call = decode(value)
            if call is not None and call.name == "rope_kv_write":
                types = [call.types[0], *(relax.TensorType(list(t.shape), self.dtype) for t in call.types[1:])]
                replaced[var] = fresh(var.name, relax.TupleType(types))
                added.append((replaced[var], dialect_call(call.name, call.tensors, types, **call.attributes)))
                report.count("layer")
            elif isinstance(value, relax.TupleGetItem) and value.tuple_value in writes and value.index > 0:
                ty = relax.TensorType(list(var.ty.shape), self.dtype)
                replaced[var] = fresh(var.name, ty)
                added.append((replaced[var], value))
        body.params = [replaced.get(p, p) for p in body.params]
        body.edit(replaced, added)
        body.emit(program.module, "main")
        return report
