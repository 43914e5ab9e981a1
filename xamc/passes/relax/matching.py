"""Small readers of Relax bindings that the Relax passes share."""

from __future__ import annotations

from typing import Any

from tvm import relax, sym

from xamc.ir.dialect import DialectCall, decode, dialect_call
from xamc.passes.lowering.body import Body


def produced_by(body: Body, var: Any, name: str) -> DialectCall | None:
    """The dialect call `name` that defines `var`, or None."""
    call = decode(body.producer(var))
    return call if call is not None and call.name == name else None


def fresh(name: str, ty: Any) -> Any:
    """A new dataflow variable."""
    return relax.DataflowVar(name, ty)


def rebuilt(call: DialectCall, tensors: list[Any] | None = None, **changes: Any) -> Any:
    """The same call with other tensors or changed attributes."""
    return dialect_call(
        call.name, call.tensors if tensors is None else tensors, call.types, **{**call.attributes, **changes}
    )


def same_shape(left: Any, right: Any) -> bool:
    """Whether two tensor types have provably equal shapes."""
    a, b = list(left.shape), list(right.shape)
    analyzer = sym.Analyzer()
    return len(a) == len(b) and all(analyzer.can_prove_equal(x, y) for x, y in zip(a, b, strict=True))
