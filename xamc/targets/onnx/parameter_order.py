"""Sizes that a kernel is told, in an order that is the same in every process.

Where a dimension is an expression, such as the sum that `Concat` makes, TVM's legalization tells the kernel its
variables as further parameters, in the order of a set that is keyed by addresses:

    kernel(x: [a, b + c], b, c)   in one process,   kernel(x: [a, b + c], c, b)   in another
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.tirx.buffer import BufferType


@tvm.transform.module_pass(opt_level=0, name="xamc.OrderSizeParameters")
def order_size_parameters(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Sorts the parameters that are no buffers by their names, which are those of the dimensions, and the arguments."""
    updated = tvm.IRModule(dict(module.functions_items()), attrs=module.attrs)
    orders: dict[Any, Sequence[int]] = {}
    for var, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc) and (order := _order(function)) != list(range(len(function.params))):
            params = [function.params[index] for index in order]
            updated.update_func(var, tirx.PrimFunc(params, function.body, function.ret_type, function.attrs))
            orders[var] = order
    if not orders:
        return module
    calls = _Calls(updated, orders)
    for var, function in module.functions_items():
        if isinstance(function, relax.Function):
            calls.builder_.update_func(var, calls.visit_expr(function))
    return calls.builder_.get()


def _order(function: Any) -> list[int]:
    """The old index of each parameter in the new order."""
    params = function.params
    sizes = [index for index, param in enumerate(params) if not isinstance(param.ty, BufferType)]
    order = list(range(len(params)))
    for place, index in zip(sizes, sorted(sizes, key=lambda index: str(params[index].name))):
        order[place] = index
    return order


@mutator
class _Calls(PyExprMutator):
    """Calls of kernels whose parameters stand in another order."""

    def __init__(self, module: tvm.IRModule, orders: dict[Any, Sequence[int]]) -> None:
        super().__init__(module)
        self.orders = orders

    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        if call.op != tvm.ir.Op.get("relax.call_tir") or call.args[0] not in self.orders:
            return call
        kernel, given, *rest = call.args
        order = [index for index in self.orders[kernel] if index < len(given)]
        arguments = relax.Tuple([given[index] for index in order])
        return relax.Call(call.op, [kernel, arguments, *rest], call.attrs, call.ty_args)
