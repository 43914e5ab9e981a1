"""Integer divisions that a divisor of 0, or of -1, can't end the process with: a processor stops at both.

ONNX leaves the result of `Div` and `Mod` by 0 open, and ONNX Runtime dies of it. Here it is 0, as in NumPy, in the
graph that is compiled and in the one that it is compared with:

    a, d ─► Div      becomes      o = [d = 0] + 2 [d = -1]      a, d + o ─► Div ─► Mul(1 - o)

The quotient by -1, whose largest one doesn't fit, is the negative number, as in NumPy. `Mod` by 1 is 0 for both.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from xamc.passes.lowering.onnx_operators import STANDARD_DOMAINS

_EXTENTS = frozenset(("Shape", "Size"))


def guard_divisions(model: ir.Model) -> int:
    """Guards integer divisions by numbers that are not known, in place; what a dimension divides stays as it is.

    Args:
        model: functions inlined, input shapes and types given.

    Returns:
        How many there were.
    """
    if not any(node.op_type in ("Div", "Mod") for node in model.graph.all_nodes()):
        return 0
    inferred = model.clone()
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(inferred)
    count = 0
    for node, known in list(zip(model.graph.all_nodes(), inferred.graph.all_nodes(), strict=True)):
        if node.domain not in STANDARD_DOMAINS or node.op_type not in ("Div", "Mod"):
            continue
        dtype = next((value.dtype for value in known.inputs if value is not None and value.dtype is not None), None)
        divisor = node.inputs[1]
        if dtype is None or not dtype.is_integer() or divisor is None or _is_safe(divisor):
            continue
        _guard(node, dtype)
        count += 1
    return count


def _is_safe(value: ir.Value) -> bool:
    """Whether a divisor is a known one that is neither 0 nor -1, or comes of dimensions and known numbers alone."""
    constant = ir.convenience.get_const_tensor(value)
    if constant is not None:
        array = constant.numpy()
        return not bool(((array == 0) | (array == array.dtype.type(-1 if array.dtype.kind == "i" else 0))).any())
    seen, left, of_dims = set(), [value], False
    while left:
        one = left.pop()
        if id(one) in seen or ir.convenience.get_const_tensor(one) is not None:
            continue
        seen.add(id(one))
        producer = one.producer()
        if producer is None:
            return False
        if producer.op_type in _EXTENTS:
            of_dims = True
            continue
        left += [operand for operand in producer.inputs if operand is not None]
    return of_dims


def _guard(node: ir.Node, dtype: ir.DataType) -> None:
    numerator, divisor, result = node.inputs[0], node.inputs[1], node.outputs[0]
    assert numerator is not None and divisor is not None and node.graph is not None
    name, nodes = result.name, []

    def add(op: str, inputs: list[ir.Value], called: str, kind: ir.DataType = dtype, **attributes: int) -> ir.Value:
        made = ir.node(op, inputs, attributes, name=f"{name}.{called}")
        made.outputs[0].name, made.outputs[0].type = made.name, ir.TensorType(kind)
        nodes.append(made)
        return made.outputs[0]

    def number(value: int, called: str) -> ir.Value:
        made = ir.node("Constant", [], {"value": ir.tensor(np.array(value, dtype.numpy()))}, name=f"{name}.{called}")
        made.outputs[0].name, made.outputs[0].type = made.name, ir.TensorType(dtype)
        made.outputs[0].shape = ir.Shape([])
        nodes.append(made)
        return made.outputs[0]

    def where_it_is(value: int, called: str) -> ir.Value:
        hit = add("Equal", [divisor, number(value, called)], f"is_{called}", ir.DataType.BOOL)
        return add("Cast", [hit], f"{called}_as_number", to=int(dtype))

    offset, one = where_it_is(0, "zero"), number(1, "one")
    if dtype.numpy().kind == "i":
        other = where_it_is(-1, "minus_one")
        offset = add("Add", [offset, add("Add", [other, other], "twice")], "offset")
    safe = add("Add", [divisor, offset], "divisor")
    users = None
    if node.op_type == "Div":
        users = list(result.uses())
    node.graph.insert_before(node, nodes)
    node.replace_input_with(1, safe)
    if users is None:
        return
    nodes.clear()
    result.name = f"{name}.quotient"
    factor = add("Sub", [one, offset], "factor")
    product = add("Mul", [result, factor], "guarded")
    nodes[-1].name, product.name, product.shape = f"{name}.guarded", name, result.shape
    node.graph.insert_after(node, nodes)
    for user, index in users:
        user.replace_input_with(index, product)
    outputs = node.graph.outputs
    for index, value in enumerate(outputs):
        if value is result:
            outputs[index] = product
