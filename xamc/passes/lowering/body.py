"""A Relax function of one dataflow block as a list of bindings that passes can edit, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax

from xamc.errors import InternalError


def arguments(expr: Any) -> list[Any]:
    """The variables that `expr` reads, in order, with repetitions."""
    if isinstance(expr, relax.Var):
        return [expr]
    if isinstance(expr, relax.Tuple):
        return [v for part in expr.fields for v in arguments(part)]
    if isinstance(expr, relax.TupleGetItem):
        return arguments(expr.tuple_value)
    if isinstance(expr, relax.Call):
        return [v for part in expr.args for v in arguments(part)]
    return []


def substitute(expr: Any, replacement: Callable[[Any], Any]) -> Any:
    """`expr` with every variable v it reads replaced by `replacement(v)`."""
    if isinstance(expr, relax.Var):
        return replacement(expr)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([substitute(part, replacement) for part in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(substitute(expr.tuple_value, replacement), expr.index)
    if isinstance(expr, relax.Call):
        args = [substitute(part, replacement) for part in expr.args]
        return relax.Call(expr.op, args, expr.attrs, expr.ty_args)
    return expr


@dataclass
class Body:
    """The bindings of a function, in order of execution.

    Variables are compared by identity of their underlying object (`same_as`), so they are keyed by handle.
    """

    params: list[Any]
    bindings: list[tuple[Any, Any]]
    outputs: list[Any]
    _producers: dict[Any, Any] | None = field(default=None, repr=False)

    @staticmethod
    def of(function: Any) -> Body:
        """Reads a function whose body is one dataflow block and whose result is a tuple of variables."""
        if len(function.body.blocks) != 1:
            raise InternalError("E1409", "a Relax pass met a function that is not a single dataflow block")
        bindings = [(b.var, b.value) for b in function.body.blocks[0].bindings]
        values = dict(bindings)
        result = function.body.body
        while isinstance(result, relax.Var) and isinstance(values.get(result), relax.Tuple | relax.Var):
            result = values[result]
        outputs = list(result.fields) if isinstance(result, relax.Tuple) else [result]
        kept = [(var, value) for var, value in bindings if not isinstance(value, relax.Tuple)]
        return Body(list(function.params), kept, outputs)

    def producer(self, var: Any) -> Any:
        """The expression that defines `var`, or None for a parameter."""
        if self._producers is None:
            self._producers = dict(self.bindings)
        return self._producers.get(var)

    def users(self) -> dict[Any, list[Any]]:
        """For each variable, the variables whose expressions read it; None stands for the function's result."""
        readers: dict[Any, list[Any]] = {}
        for var, value in self.bindings:
            for read in arguments(value):
                readers.setdefault(read, []).append(var)
        for output in self.outputs:
            readers.setdefault(output, []).append(None)
        return readers

    def edit(self, replaced: dict[Any, Any], added: Iterable[tuple[Any, Any]] = ()) -> None:
        """Redirects reads of each key of `replaced` to its value, and adds bindings; then sorts and drops the dead."""

        def resolve(var: Any) -> Any:
            while var in replaced:
                var = replaced[var]
            return var

        bindings = [(var, value) for var, value in [*self.bindings, *added] if var not in replaced]
        self.bindings = [(var, substitute(value, resolve)) for var, value in bindings]
        self.outputs = [resolve(var) for var in self.outputs]
        self._producers = None
        self._sort()

    def _sort(self) -> None:
        """Orders bindings by their dependencies (depth first from the outputs); what nothing reads is dropped."""
        values = dict(self.bindings)
        done: set[Any] = set()
        ordered: list[tuple[Any, Any]] = []
        stack: list[tuple[Any, bool]] = [(v, False) for v in reversed(self.outputs)]
        while stack:
            var, ready = stack.pop()
            if var in done or var not in values:
                continue
            if ready:
                done.add(var)
                ordered.append((var, values[var]))
                continue
            stack.append((var, True))
            stack.extend((read, False) for read in reversed(arguments(values[var])))
        self.bindings = ordered

    def emit(self, module: tvm.IRModule, name: str, params: list[Any] | None = None) -> None:
        """Writes the function back into `module` under `name`; the result is always a tuple of the outputs."""
        builder = relax.BlockBuilder()
        renamed: dict[Any, Any] = {}
        with builder.function(name, params if params is not None else self.params, private=False):
            with builder.dataflow():
                for var, value in self.bindings:
                    expr = substitute(value, lambda v: renamed.get(v, v))
                    renamed[var] = builder.emit(expr, var.name)
                result = [renamed.get(v, v) for v in self.outputs]
                output = builder.emit_output(relax.Tuple(result))
            builder.emit_func_output(output)
        function = builder.finalize()[name]
        known = [var for var in module.get_global_vars() if var.name_hint == name]
        module.update_func(known[0] if known else tvm.ir.GlobalVar(name), function)
