"""The closed set of operators of VACC's static graphs, each with its float16 kernel or view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax
from tvm.tirx.script.builder import ir as T

from xamc.artifact.packing import WeightFormat
from xamc.ir.names import (
    ALL_GATHER_OP,
    ALL_REDUCE_OP,
    DEQUANTIZE_KV_OP,
    MASK_DOMAIN,
    QUANTIZE_KV_OP,
    QUANTIZED_LINEAR_OP,
    SWIGLU_OP,
    VASTAI_DOMAIN,
)
from xamc.ir.onnx_graph import static_dims
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.batched_matmul import MatMulShape, batched_matmul
from xamc.targets.kernels.embedding import embedding
from xamc.targets.kernels.linear import linear
from xamc.targets.kernels.norm import rms_norm
from xamc.targets.kernels.softmax import softmax
from xamc.targets.kernels.strided import concatenate, take_rows
from xamc.targets.vacc.lowering import ACTIVATION, Lowering, Weight, refused
from xamc.targets.vacc.views import View

Handler = Callable[[Lowering, ir.Node], None]
HANDLERS: dict[tuple[str, str], Handler] = {}
LARGEST_CODE = 127


def handles(name: str, domain: str = "") -> Callable[[Handler], Handler]:
    """Registers the handler of one operator."""

    def register(function: Handler) -> Handler:
        HANDLERS[domain, name] = function
        return function

    return register


def _shape(node: ir.Node) -> tuple[int, ...]:
    return static_dims(node.outputs[0]) or ()


def _name(node: ir.Node) -> str:
    return str(node.outputs[0].name or node.op_type)


# -- element by element -------------------------------------------------------------------------------------------


def _sigmoid(x: E.Expr, lanes: int) -> E.Expr:
    return E.const(1, lanes) / (E.const(1, lanes) + E.exp(E.let(E.const(0, lanes) - x), lanes))


def _is_true(x: E.Expr, lanes: int) -> E.Expr:
    return x != E.const(0, lanes, "int8")


def _round(x: E.Expr, lanes: int) -> E.Expr:
    return T.call_llvm_pure_intrin(E.vector("float32", lanes), "llvm.rint", x)


_ARITHMETIC: dict[str, Callable[[Sequence[E.Expr], int], E.Expr]] = {
    "Add": lambda v, lanes: v[0] + v[1],
    "Sub": lambda v, lanes: v[0] - v[1],
    "Mul": lambda v, lanes: v[0] * v[1],
    "Div": lambda v, lanes: v[0] / v[1],
    "Neg": lambda v, lanes: v[0] * E.const(-1, lanes),
    "Sigmoid": lambda v, lanes: _sigmoid(v[0], lanes),
    "Where": lambda v, lanes: E.select(_is_true(v[0], lanes), v[1], v[2]),
}
_CONDITIONS: dict[str, Callable[[Sequence[E.Expr], int], E.Expr]] = {
    "Greater": lambda v, lanes: v[0] > v[1],
    "GreaterOrEqual": lambda v, lanes: v[0] >= v[1],
    "Less": lambda v, lanes: v[0] < v[1],
    "LessOrEqual": lambda v, lanes: v[0] <= v[1],
    "Equal": lambda v, lanes: v[0] == v[1],
    "And": lambda v, lanes: (v[0] & v[1]) != E.const(0, lanes, "int8"),
    "Or": lambda v, lanes: (v[0] | v[1]) != E.const(0, lanes, "int8"),
    "Not": lambda v, lanes: v[0] == E.const(0, lanes, "int8"),
}


def _arithmetic(state: Lowering, node: ir.Node) -> None:
    views = [state.view(node, index) for index in range(len(node.inputs))]
    dtype = "int64" if views[-1].dtype == "int64" else ACTIVATION
    state.values[node.outputs[0]] = state.pointwise(
        node.op_type.lower(), views, dtype, _ARITHMETIC[node.op_type], _name(node)
    )


def _condition(state: Lowering, node: ir.Node) -> None:
    views = [state.view(node, index) for index in range(len(node.inputs))]
    compute = _CONDITIONS[node.op_type]
    state.values[node.outputs[0]] = state.pointwise(
        node.op_type.lower(), views, "int8", lambda v, lanes: E.cast(compute(v, lanes), "int8", lanes), _name(node)
    )


for _op in _ARITHMETIC:
    HANDLERS["", _op] = _arithmetic
for _op in _CONDITIONS:
    HANDLERS["", _op] = _condition


@handles("Cast")
def _cast(state: Lowering, node: ir.Node) -> None:
    operand, target = state.operand(node, 0), ir.DataType(node.attributes["to"].as_int())
    floats = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
    source = node.inputs[0].dtype if node.inputs[0] is not None else None
    if source in floats and target in floats:
        # the graph computes in float32 on paper only: both are the activations' type, or a weight as it is stored
        state.values[node.outputs[0]] = operand
        return
    if target not in floats:
        raise refused(node, f"a cast to {target.name}")
    state.values[node.outputs[0]] = state.pointwise(
        "to_float", [state.view(node, 0)], ACTIVATION, lambda v, lanes: E.cast(v[0], "float32", lanes), _name(node)
    )


@handles(SWIGLU_OP, MASK_DOMAIN)
def _swiglu(state: Lowering, node: ir.Node) -> None:
    """gate * sigmoid(gate) * up, rounded once."""
    views = [state.view(node, 0), state.view(node, 1)]
    state.values[node.outputs[0]] = state.pointwise(
        "swiglu", views, ACTIVATION, lambda v, lanes: v[0] * _sigmoid(v[0], lanes) * v[1], _name(node)
    )


def _per_channel(state: Lowering, node: ir.Node) -> list[View]:
    """The operands x [B, H, T, D], scales and zeros [H, D], the latter as [H, 1, D]."""
    x, *parameters = [state.view(node, index) for index in range(3)]
    return [x, *(p.with_layout(p.layout[:, None, :]) for p in parameters)]


@handles(DEQUANTIZE_KV_OP, MASK_DOMAIN)
def _dequantize_kv(state: Lowering, node: ir.Node) -> None:
    """codes * scales + zeros."""
    state.values[node.outputs[0]] = state.pointwise(
        "dequantize_kv",
        _per_channel(state, node),
        ACTIVATION,
        lambda v, lanes: E.cast(v[0], "float32", lanes) * v[1] + v[2],
        _name(node),
    )


@handles(QUANTIZE_KV_OP, MASK_DOMAIN)
def _quantize_kv(state: Lowering, node: ir.Node) -> None:
    """round((x - zeros) / scales), to nearest even, clamped to the codes."""

    def compute(v: Sequence[E.Expr], lanes: int) -> E.Expr:
        level = _round(E.let((v[0] - v[2]) / v[1]), lanes)
        level = E.minimum(E.maximum(level, E.const(-LARGEST_CODE, lanes)), E.const(LARGEST_CODE, lanes))
        return E.cast(level, "int8", lanes)

    state.values[node.outputs[0]] = state.pointwise(
        "quantize_kv", _per_channel(state, node), "int8", compute, _name(node)
    )


# -- views --------------------------------------------------------------------------------------------------------


@handles("Identity")
def _identity(state: Lowering, node: ir.Node) -> None:
    state.values[node.outputs[0]] = state.operand(node, 0)


@handles("Transpose")
def _transpose(state: Lowering, node: ir.Node) -> None:
    permutation = list(node.attributes.get_ints("perm") or [])
    operand = state.operand(node, 0)
    if isinstance(operand, Weight):
        if permutation != [1, 0] or operand.transposed:
            raise refused(node, f"{operand.name} in the order {permutation}")
        state.values[node.outputs[0]] = Weight(operand.name, transposed=True)
        return
    state.values[node.outputs[0]] = state.view(node, 0).transpose(permutation)


def _new_shape(state: Lowering, node: ir.Node) -> None:
    state.values[node.outputs[0]] = state.reshaped(state.view(node, 0), _shape(node))


for _op in ("Reshape", "Unsqueeze", "Squeeze", "Flatten"):
    HANDLERS["", _op] = _new_shape


@handles("Expand")
def _expand(state: Lowering, node: ir.Node) -> None:
    view = state.unmerged(state.view(node, 0))
    state.values[node.outputs[0]] = view.with_layout(np.broadcast_to(view.layout, _shape(node)))


@handles("Slice")
def _slice(state: Lowering, node: ir.Node) -> None:
    view = state.unmerged(state.view(node, 0))
    starts, stops = (state.constant(node, index).reshape(-1).tolist() for index in (1, 2))
    has_axes = len(node.inputs) > 3 and node.inputs[3] is not None
    axes = state.constant(node, 3).reshape(-1).tolist() if has_axes else list(range(len(starts)))
    has_steps = len(node.inputs) > 4 and node.inputs[4] is not None
    if has_steps and set(state.constant(node, 4).reshape(-1).tolist()) != {1}:
        raise refused(node, "a slice in steps")
    index: list[Any] = [slice(None)] * len(view.shape)
    for axis, start, stop in zip(axes, starts, stops, strict=True):
        index[axis] = slice(start, stop)
    layout = view.layout[tuple(index)]
    if layout.shape != _shape(node):
        raise refused(node, f"it yields {layout.shape}, declared as {_shape(node)}")
    state.values[node.outputs[0]] = view.with_layout(layout)


@handles("Split")
def _split(state: Lowering, node: ir.Node) -> None:
    view = state.unmerged(state.view(node, 0))
    axis = node.attributes.get_int("axis", 0) or 0
    start = 0
    for output in node.outputs:
        width = (static_dims(output) or ())[axis]
        index: list[Any] = [slice(None)] * len(view.shape)
        index[axis] = slice(start, start + width)
        state.values[output] = view.with_layout(view.layout[tuple(index)])
        start += width


@handles("Concat")
def _concat(state: Lowering, node: ir.Node) -> None:
    views = [state.unmerged(state.view(node, index)) for index in range(len(node.inputs))]
    axis = (node.attributes["axis"].as_int()) % len(views[0].shape)
    shapes, strides = [view.shape for view in views], [view.strides() for view in views]
    dtype = views[0].dtype
    var = state.call(
        "concat",
        (axis, tuple(shapes), tuple(strides)),
        lambda name: concatenate(name, shapes, strides, axis, dtype, state.isa),
        [view.var for view in views],
        state.flat(prod(_shape(node)), dtype),
        _name(node),
    )
    state.values[node.outputs[0]] = View.of(var, dtype, _shape(node))


# -- over rows ----------------------------------------------------------------------------------------------------


@handles("Gather")
def _gather(state: Lowering, node: ir.Node) -> None:
    """Rows of a table: token embeddings, RoPE tables."""
    table, ids = state.operand(node, 0), state.view(node, 1)
    if node.attributes.get_int("axis", 0) != 0 or ids.dtype != "int64":
        raise refused(node, "only rows of a table are gathered")
    flat = state.contiguous(ids)
    if isinstance(table, Weight) and state.plan.weights[table.name].packing != "stored":
        weight = state.plan.weights[table.name]
        rows, width = weight.shape
        form = WeightFormat("float16" if weight.packing == "float16" else "float32")
        result = state.call(
            "embedding",
            (rows, width, form),
            lambda name: _named(embedding(rows, width, form, state.isa, ACTIVATION), name),
            [flat.var, *_buffers(state, table.name)],
            relax.TensorType([flat.size, width], ACTIVATION),
            _name(node),
        )
        state.values[node.outputs[0]] = state.from_matrix(result, ACTIVATION, _shape(node))
        return
    source = state.contiguous(state.view(node, 0))
    rows, width = source.shape[0], prod(source.shape[1:])
    if source.dtype not in ("float16", "float32"):
        raise refused(node, f"a table of {source.dtype}")
    var = state.call(
        "take_rows",
        (flat.size, rows, width, source.dtype),
        lambda name: take_rows(name, flat.size, rows, width, source.dtype, ACTIVATION, state.isa),
        [source.var, flat.var],
        state.flat(flat.size * width, ACTIVATION),
        _name(node),
    )
    state.values[node.outputs[0]] = View.of(var, ACTIVATION, _shape(node))


@handles("Softmax")
def _softmax(state: Lowering, node: ir.Node) -> None:
    x = state.contiguous(state.view(node, 0))
    if node.attributes.get_int("axis", -1) not in (-1, len(x.shape) - 1):
        raise refused(node, "softmax along another axis than the last")
    width = x.shape[-1]
    var = state.call(
        "softmax",
        (x.size, width),
        lambda name: softmax(name, x.size // width, width, ACTIVATION, state.isa),
        [x.var],
        state.flat(x.size, ACTIVATION),
        _name(node),
    )
    state.values[node.outputs[0]] = View.of(var, ACTIVATION, x.shape)


@handles("RMSNormalization")
def _rms_norm(state: Lowering, node: ir.Node) -> None:
    x, weight = state.view(node, 0), state.view(node, 1)
    if node.attributes.get_int("axis", -1) not in (-1, len(x.shape) - 1):
        raise refused(node, "normalization over more than the last axis")
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    assert epsilon is not None
    width = x.shape[-1]
    matrix = state.matrix(x, width)
    result = state.call(
        "rms_norm",
        (width, epsilon, weight.dtype),
        lambda name: _named(rms_norm(width, epsilon, state.isa, activations=ACTIVATION, weights=weight.dtype), name),
        [matrix, state.contiguous(weight).var],
        matrix.ty,
        _name(node),
    )
    state.values[node.outputs[0]] = state.from_matrix(result, ACTIVATION, x.shape)


# -- matrix products ----------------------------------------------------------------------------------------------


@handles("MatMul")
def _matmul(state: Lowering, node: ir.Node) -> None:
    right = state.operand(node, 1)
    if isinstance(right, Weight):
        if not right.transposed:
            raise refused(node, f"a product with {right.name}, which is not transposed")
        _linear(state, node, right.name)
        return
    a, b = state.view(node, 0), state.view(node, 1)
    if (
        len(a.shape) != len(b.shape)
        or len(a.shape) < 2
        or any(count != 1 for count in (*a.groups[-2:], *b.groups[-2:]))
    ):
        raise refused(node, f"a product of {a.shape} and {b.shape}")
    # the finer of the two divisions of the batch serves both: repeated KV heads stay where they are
    batch = max((v.layout.shape[:-2] for v in (a, b)), key=len)
    views = []
    for view in (a, b):
        if prod(view.shape[:-2]) != prod(batch):
            raise refused(node, f"a product of {a.shape} and {b.shape}, which are broadcast")
        split = view if view.layout.shape[:-2] == batch else view.reshape((*batch, *view.shape[-2:]))
        if split is None or (split is not view and split.is_merged):
            split = state.contiguous(view).reshape((*batch, *view.shape[-2:]))
        assert split is not None
        views.append(split)
    left, other = (view.strides() for view in views)
    shape = MatMulShape(batch, a.shape[-2], b.shape[-1], a.shape[-1])
    var = state.call(
        "matmul",
        (shape, left, other),
        lambda name: batched_matmul(name, shape, left, other, ACTIVATION, state.isa),
        [view.var for view in views],
        state.flat(prod(_shape(node)), ACTIVATION),
        _name(node),
    )
    state.values[node.outputs[0]] = View.of(var, ACTIVATION, _shape(node))


@handles(QUANTIZED_LINEAR_OP, VASTAI_DOMAIN)
def _quantized_linear(state: Lowering, node: ir.Node) -> None:
    codes = state.operand(node, 1)
    if not isinstance(codes, Weight):
        raise refused(node, "its codes are no weight")
    _linear(state, node, codes.name)


def _linear(state: Lowering, node: ir.Node, name: str) -> None:
    weight = state.plan.weights[name]
    n, k = weight.shape
    form = WeightFormat(weight.packing if weight.packing != "stored" else "float32")
    x = state.widened(state.view(node, 0), k)
    m: Any = "one" if int(x.ty.shape[0]) == 1 else "any"
    result = state.call(
        f"linear_{m}",
        (n, k, form),
        lambda symbol: _named(linear(n, k, form, state.isa, m=m), symbol),
        [x, *_buffers(state, name)],
        relax.TensorType([int(x.ty.shape[0]), n], "float32"),
        f"{_name(node)}_sums",
    )
    state.values[node.outputs[0]] = state.narrowed(result, _shape(node), _name(node))


def _buffers(state: Lowering, name: str) -> list[Any]:
    start = state.plan.first[name]
    return state.packed[start : start + len(state.plan.weights[name].buffers)]


def _named(function: Any, name: str) -> Any:
    return function.with_attr("global_symbol", name)


# -- between ranks ------------------------------------------------------------------------------------------------


@handles(ALL_REDUCE_OP, MASK_DOMAIN)
def _all_reduce(state: Lowering, node: ir.Node) -> None:
    _collective(state, node, "xamc.vacc.all_reduce", 1)


@handles(ALL_GATHER_OP, MASK_DOMAIN)
def _all_gather(state: Lowering, node: ir.Node) -> None:
    """Ranks one after the other along an axis: rows of what lies behind it."""
    axis = node.attributes["axis"].as_int()
    _collective(state, node, "xamc.vacc.all_gather", prod(state.view(node, 0).shape[axis:]))


def _collective(state: Lowering, node: ir.Node, symbol: str, columns: int) -> None:
    x = state.matrix(state.view(node, 0), columns)
    shape = _shape(node)
    ty = relax.TensorType([int(x.ty.shape[0]), prod(shape) // int(x.ty.shape[0])], ACTIVATION)
    result = state.builder.emit(relax.call_dps_packed(symbol, relax.Tuple([x]), ty), _name(node))
    state.values[node.outputs[0]] = state.from_matrix(result, ACTIVATION, shape)
