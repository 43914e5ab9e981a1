"""Operators of our own inside a Relax function, until kernels are selected for them.

A dialect call is `R.call_dps_packed("xamc.<name>", (tensors..., R.str(attributes as JSON)), out_ty)`. Before kernel
selection it can be executed by the NumPy functions of `interpreter.py`; after it none may be left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

PREFIX = "xamc."


@dataclass(frozen=True)
class DialectCall:
    """A decoded dialect call: its name without the prefix, its tensor arguments and its attributes."""

    name: str
    tensors: tuple[Any, ...]
    attributes: Mapping[str, Any]
    types: tuple[Any, ...]


def dialect_call(name: str, tensors: Sequence[Any], types: Sequence[Any], **attributes: Any) -> Any:
    """Builds a call; with several `types` the call yields a tuple."""
    text = json.dumps(attributes, sort_keys=True)
    arguments = relax.Tuple([*tensors, tvm.ir.StringImm(text)])
    return relax.call_dps_packed(f"{PREFIX}{name}", arguments, types[0] if len(types) == 1 else list(types))


def decode(expr: Any) -> DialectCall | None:
    """The dialect call in `expr`, or None when it is anything else."""
    if not isinstance(expr, relax.Call) or getattr(expr.op, "name", "") != "relax.call_dps_packed":
        return None
    symbol = str(expr.args[0].global_symbol)
    if not symbol.startswith(PREFIX):
        return None
    *tensors, text = expr.args[1].fields
    types = []
    for ty in expr.ty_args:
        types += list(ty.fields) if isinstance(ty, relax.TupleType) else [ty]
    return DialectCall(symbol.removeprefix(PREFIX), tuple(tensors), json.loads(str(text.value)), tuple(types))


def is_op(expr: Any, name: str) -> bool:
    """Whether `expr` is a call of the Relax operator `relax.<name>`."""
    return isinstance(expr, relax.Call) and getattr(expr.op, "name", "") == f"relax.{name}"
