"""RoPE and the in-place KV cache update in one operator that reads the merged q|k|v rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax

from xamc.ir.dialect import DialectCall, decode, dialect_call, is_op
from xamc.ir.relax_program import RelaxProgram
from xamc.passes.lowering.body import Body
from xamc.passes.protocol import NonMatch, PassReport
from xamc.passes.relax.matching import fresh, produced_by


@dataclass(frozen=True)
class _Head:
    """Where a [B, H, S, D] operand of the attention comes from: columns of a row, and what happened on the way."""

    row: Any
    start: int
    heads: int
    norm: Any | None
    epsilon: float | None
    rope: DialectCall | None


@dataclass(frozen=True)
class RopeCache:
    """The attention works on rows, and the cache is updated where it lies.

    Before::

        y -> columns -> reshape -> [rms_norm] -> permute_dims -> rotary_embedding -> q, k      y -> ... -> v
        k -> tensor_scatter(cache_key)   v -> tensor_scatter(cache_value)
        attention(q, cache_key', cache_value') -> permute_dims -> reshape

    After::

        q, cache_key', cache_value' = rope_kv_write(y, cache_key, cache_value)     (the caches are mutated)
        attention_rows(q, cache_key', cache_value')
    """

    name: str = "rope_cache"
    tolerance: str = "reassociated"

    def run(self, program: RelaxProgram) -> PassReport:
        """Rewrites every attention whose operands have the form above."""
        report = PassReport()
        body = Body.of(program.module["main"])
        users = body.users()
        replaced: dict[Any, Any] = {}
        added: list[tuple[Any, Any]] = []
        for var, value in body.bindings:
            call = decode(value)
            if call is None or call.name != "attention":
                continue
            reason = self._rewrite(body, users, var, call, replaced, added)
            if reason:
                report.skipped.append(NonMatch(var.name, reason))
            else:
                report.count("attention")
        body.edit(replaced, added)
        body.emit(program.module, "main")
        return report

    @staticmethod
    def _rewrite(
        body: Body,
        users: dict[Any, list[Any]],
        var: Any,
        call: DialectCall,
        replaced: dict[Any, Any],
        added: list[tuple[Any, Any]],
    ) -> str:
        query, cache_key, cache_value, index = call.tensors
        key_write = produced_by(body, cache_key, "tensor_scatter")
        value_write = produced_by(body, cache_value, "tensor_scatter")
        if key_write is None or value_write is None:
            return "its keys or values do not come from a cache update"
        q, k = _head(body, query), _head(body, key_write.tensors[1])
        v = _head(body, value_write.tensors[1])
        if q is None or k is None or v is None:
            return "q, k or v is not a reshaped part of a projection"
        if q.rope is None or k.rope is None or v.rope is not None:
            return "q and k are not both rotated"
        if not (q.row.same_as(k.row) and q.row.same_as(v.row)):
            return "q, k and v are not columns of one projection"
        if (q.norm is None) != (k.norm is None) or q.epsilon != k.epsilon:
            return "only one of q and k is normalized"
        dim = int(query.ty.shape[3])
        if (q.start, k.start, v.start) != (0, q.heads * dim, (q.heads + k.heads) * dim):
            return "the projection does not hold q, k and v in this order"
        rows = _rows_after(body, users, var)
        if rows is None:
            return "its result is not reshaped to rows"
        _, positions_cos, positions_sin, positions = q.rope.tensors
        q_type = rows.ty
        types = [q_type, cache_key.ty, cache_value.ty]
        update = fresh(f"{query.name}_update", relax.TupleType(types))
        norms = [] if q.norm is None else [q.norm, k.norm]
        tensors = [q.row, positions, index, positions_cos, positions_sin]
        tensors += [key_write.tensors[0], value_write.tensors[0], *norms]
        sizes = {"heads": q.heads, "kv_heads": k.heads, "head_dim": dim, "epsilon": q.epsilon}
        added.append((update, dialect_call("rope_kv_write", tensors, types, **sizes)))
        parts = []
        for position, old in enumerate((query, cache_key, cache_value)):
            part = fresh(old.name, types[position])
            added.append((part, relax.TupleGetItem(update, position)))
            parts.append(part)
        replaced[cache_key], replaced[cache_value] = parts[1], parts[2]
        mixed = fresh(rows.name, rows.ty)
        attributes = {"heads": q.heads, "scale": call.attributes["scale"], "window": call.attributes["window"]}
        added.append((mixed, dialect_call("attention_rows", [*parts, index], [rows.ty], **attributes)))
        replaced[rows] = mixed
        return ""


def _head(body: Body, var: Any) -> _Head | None:
    rope = produced_by(body, var, "rotary_embedding")
    source = rope.tensors[0] if rope is not None else var
    turn = body.producer(source)
    if turn is None or not is_op(turn, "permute_dims") or [int(a) for a in turn.attrs.axes] != [0, 2, 1, 3]:
        return None
    split = turn.args[0]
    norm, epsilon = None, None
    value = body.producer(split)
    if value is not None and is_op(value, "nn.rms_norm"):
        norm, epsilon = value.args[1], float(value.attrs.epsilon)
        split = value.args[0]
        value = body.producer(split)
    if value is None or not is_op(value, "reshape"):
        return None
    part = produced_by(body, value.args[0], "columns")
    if part is None:
        return None
    return _Head(part.tensors[0], part.attributes["start"], int(split.ty.shape[2]), norm, epsilon, rope)


def _rows_after(body: Body, users: dict[Any, list[Any]], var: Any) -> Any | None:
    """The value that holds [B, H, S, D] `var` as rows [B, S, H D]: its only reader's only reader."""
    for op in ("permute_dims", "reshape"):
        readers = users.get(var, [])
        if len(readers) != 1 or readers[0] is None or not is_op(body.producer(readers[0]), op):
            return None
        var = readers[0]
    return var
