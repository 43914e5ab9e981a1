"""Lowers a rank's static graph to Relax: one kernel per operator, float16 between operators.

Each operator reads float16, computes in float32 and rounds its result once, whatever it is made of; operators that
only move elements become views (`views.py`) and round nothing. Kernels are shared by all places of equal shapes, so a
deep model has no more of them than a shallow one.

The generic lowering (`xamc.passes.lowering`) is for the in-place form with symbolic shapes, and computes in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import onnx.reference
import onnx_ir as ir
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.relax import op

from xamc.errors import UnsupportedError
from xamc.ir.names import MODULE_KEY, WEIGHT_ROLE
from xamc.ir.onnx_graph import constant_array, static_dims
from xamc.ir.program import Program
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.strided import Compute, Strides, pointwise
from xamc.targets.vacc.views import View
from xamc.targets.vacc.weights import PlannedWeight, WeightPlan, plan_weights

ACTIVATION = "float16"
# results of constants alone are computed here up to this many elements, and by the graph beyond
_FOLDED_ELEMENTS = 65536

_DTYPES = {
    ir.DataType.FLOAT: ACTIVATION,
    ir.DataType.FLOAT16: ACTIVATION,
    ir.DataType.INT64: "int64",
    ir.DataType.INT8: "int8",
    ir.DataType.BOOL: "int8",
}


@dataclass(frozen=True)
class Weight:
    """A weight input on its way to the operator that reads it: behind casts, and perhaps transposed."""

    name: str
    transposed: bool = False


Operand = View | Weight | NDArray[np.generic]
"""A value at run time, a weight, or a constant."""


@dataclass
class Kernels:
    """The module's PrimFuncs, one for each distinct key."""

    builder: relax.BlockBuilder
    variables: dict[tuple[object, ...], Any] = field(default_factory=dict)

    def get(self, kind: str, key: tuple[object, ...], make: Callable[[str], Any]) -> Any:
        """The kernel of `kind` for `key`, made by `make(name)` when there is none yet."""
        whole = (kind, *key)
        if whole not in self.variables:
            name = f"{kind}_{sum(known[0] == kind for known in self.variables)}"
            self.variables[whole] = self.builder.add_func(make(name), name)
        return self.variables[whole]


class Lowering:
    """The state of one lowering; handlers of operators (`operators.py`) write into it."""

    def __init__(self, builder: relax.BlockBuilder, plan: WeightPlan, isa: Isa) -> None:
        self.builder, self.plan, self.isa = builder, plan, isa
        self.kernels = Kernels(builder)
        self.values: dict[ir.Value, Operand] = {}
        self.packed: list[Any] = []
        self._constants: dict[tuple[str, bytes], Any] = {}
        self._float32: dict[Any, Any] = {}

    # -- operands -----------------------------------------------------------------------------------------------

    def operand(self, node: ir.Node, index: int) -> Operand:
        """An input as it is known; E1421 when it is absent."""
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            raise refused(node, f"input {index} is missing")
        return self.values[value]

    def view(self, node: ir.Node, index: int) -> View:
        """An input as a tensor at run time."""
        operand = self.operand(node, index)
        if isinstance(operand, View):
            return operand
        if isinstance(operand, Weight):
            if operand.transposed:
                raise refused(node, f"the transpose of {operand.name} where no linear layer reads it")
            return self.weight(operand.name)
        return self.constant_view(operand)

    def constant(self, node: ir.Node, index: int) -> NDArray[np.generic]:
        """An input that must be known at compile time."""
        operand = self.operand(node, index)
        if isinstance(operand, (View, Weight)):
            raise refused(node, f"input {index} must be a constant")
        return operand

    def constant_view(self, array: NDArray[np.generic]) -> View:
        """A constant as a tensor: floats in float16, booleans in int8."""
        dtype = {"f": ACTIVATION, "b": "int8"}.get(array.dtype.kind, array.dtype.name)
        flat = np.ascontiguousarray(array.reshape(-1)).astype(dtype)
        key = (dtype, flat.tobytes())
        if key not in self._constants:
            self._constants[key] = relax.const(flat, dtype)
        return View.of(self._constants[key], dtype, array.shape)

    def weight(self, name: str) -> View:
        """A weight that is read as it is stored."""
        planned = self.plan.weights[name]
        (buffer,) = planned.buffers
        return View.of(self.packed[self.plan.first[name]], buffer.dtype, planned.shape)

    # -- emitting -----------------------------------------------------------------------------------------------

    def call(
        self, kind: str, key: tuple[object, ...], make: Callable[[str], Any], arguments: list[Any], ty: Any, name: str
    ) -> Any:
        """The result of a kernel."""
        kernel = self.kernels.get(kind, key, make)
        return self.builder.emit(relax.call_tir(kernel, relax.Tuple(arguments), ty), name)

    def flat(self, elements: int, dtype: str) -> Any:
        """The type of a flat tensor."""
        return relax.TensorType([elements], dtype)

    def pointwise(self, kind: str, views: Sequence[View], dtype: str, compute: Compute, name: str) -> View:
        """An elementwise operator over broadcast operands."""
        views = [self.unmerged(view) for view in views]
        layouts = np.broadcast_arrays(*[view.layout for view in views], subok=False)
        shape = layouts[0].shape
        strides = [view.strides(layout) for view, layout in zip(views, layouts, strict=True)]
        var = self.call(
            kind,
            (shape, tuple(strides), dtype),
            lambda name: pointwise(name, shape or (1,), [_at_least_1d(s) for s in strides], dtype, compute, self.isa),
            [view.var for view in views],
            self.flat(prod(shape), dtype),
            name,
        )
        return View.of(var, dtype, shape)

    def unmerged(self, view: View) -> View:
        """A view each of whose dimensions has one stride."""
        return self.contiguous(view) if view.is_merged else view

    def contiguous(self, view: View) -> View:
        """The value as a whole variable in C order."""
        if not view.is_contiguous:
            plain = view.with_layout(view.layout)
            moved = self.pointwise("copy", [plain], view.dtype, lambda v, lanes: v[0], f"{_hint(view.var)}_moved")
            return View.of(moved.var, view.dtype, view.shape)
        return View.of(view.var, view.dtype, view.shape)

    def reshaped(self, view: View, shape: Sequence[int]) -> View:
        """The value under another shape."""
        result = view.reshape(shape)
        if result is None:
            result = self.contiguous(view).reshape(shape)
        assert result is not None, (view.shape, shape)
        return result

    def matrix(self, view: View, columns: int) -> Any:
        """The value as a Relax tensor [rows, columns]."""
        whole = self.contiguous(view)
        return self.builder.emit(op.reshape(whole.var, [whole.size // columns, columns]), f"{_hint(whole.var)}_rows")

    def from_matrix(self, matrix: Any, dtype: str, shape: Sequence[int]) -> View:
        """A Relax tensor of any shape as a value."""
        flat = self.builder.emit(op.reshape(matrix, [prod(shape)]), f"{_hint(matrix)}_flat")
        return View.of(flat, dtype, shape)

    def widened(self, view: View, columns: int) -> Any:
        """The value in float32 as a Relax tensor [rows, columns]; the linear layers that read it share it."""
        whole = self.contiguous(view)
        key = (whole.var, columns)
        if key not in self._float32:
            wide = self.pointwise("widen", [whole], "float32", lambda v, lanes: v[0], f"{_hint(whole.var)}_wide")
            self._float32[key] = self.matrix(wide, columns)
        return self._float32[key]

    def narrowed(self, matrix: Any, shape: Sequence[int], name: str) -> View:
        """A float32 Relax tensor rounded to the activations' type."""
        wide = self.from_matrix(matrix, "float32", shape)
        return self.pointwise("narrow", [wide], ACTIVATION, lambda v, lanes: v[0], name)


def lower_static(program: Program, isa: Isa) -> tuple[tvm.IRModule, WeightPlan]:
    """A module with the function `main` and the kernels that it calls.

    `main` takes the data inputs, the past as one tuple and the weights as one tuple, each buffer as the plan says,
    and returns (logits, (present...)). Collectives are calls of `xamc.vacc.all_reduce` and `xamc.vacc.all_gather`.

    Raises:
        UnsupportedError: E1421 listing the operators that have no lowering, or a use of one that is not covered.
    """
    from xamc.targets.vacc.operators import HANDLERS

    graph = program.model.graph
    missing: dict[str, str] = {}
    for node in graph:
        if constant_array(node.outputs[0]) is None and (node.domain, node.op_type) not in HANDLERS:
            missing.setdefault(f"{node.domain or 'ai.onnx'}::{node.op_type}", _place(node))
    if missing:
        raise UnsupportedError(
            "E1421",
            f"the VACC simulator has no lowering for {', '.join(missing)}",
            fix="compile for another target (backend.type: tvm_cpu), or report the model",
            details=tuple(f"{name} at {place}" for name, place in missing.items()),
        )
    plan = plan_weights(program)
    builder = relax.BlockBuilder()
    state = Lowering(builder, plan, isa)
    data = [value for value in graph.inputs if WEIGHT_ROLE not in value.metadata_props]
    pasts = [value for value in data if str(value.name).startswith("past_")]
    inputs = [value for value in data if value not in pasts]
    params = [relax.Var(str(value.name), _type(value)) for value in inputs]
    past = relax.Var("past", relax.TupleType([_type(value) for value in pasts]))
    weights = relax.Var("weights", relax.TupleType([relax.TensorType(list(b.shape), b.dtype) for b in plan.buffers]))
    with builder.function("main", [*params, past, weights]):
        with builder.dataflow():
            for value, param in zip(inputs, params, strict=True):
                state.values[value] = state.from_matrix(param, _DTYPES[value.dtype], static_dims(value) or ())
            for index, value in enumerate(pasts):
                item = builder.emit(relax.TupleGetItem(past, index), str(value.name))
                state.values[value] = state.from_matrix(item, _DTYPES[value.dtype], static_dims(value) or ())
            for index, buffer in enumerate(plan.buffers):
                state.packed.append(builder.emit(relax.TupleGetItem(weights, index), buffer.name))
            for value in graph.inputs:
                if WEIGHT_ROLE in value.metadata_props:
                    state.values[value] = Weight(str(value.name))
            for node in graph:
                _lower_node(state, node, HANDLERS)
            results = [_result(state, value) for value in graph.outputs]
            output = builder.emit_output(relax.Tuple([results[0], relax.Tuple(results[1:])]))
        builder.emit_func_output(output)
    return builder.finalize(), plan


def _lower_node(state: Lowering, node: ir.Node, handlers: Any) -> None:
    array = constant_array(node.outputs[0])
    if array is not None:
        state.values[node.outputs[0]] = array
        return
    operands = [state.values[value] for value in node.inputs if value is not None]
    shape = static_dims(node.outputs[0])
    if shape is None:
        raise refused(node, "its shape is not static")
    arrays = [operand for operand in operands if not isinstance(operand, (View, Weight))]
    if node.domain == "" and len(arrays) == len(operands) and prod(shape) <= _FOLDED_ELEMENTS:
        state.values[node.outputs[0]] = _folded(node, arrays)
        return
    handlers[node.domain, node.op_type](state, node)


def _folded(node: ir.Node, operands: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
    """The value of an operator on constants, by onnx's own definition."""
    names = [str(value.name) for value in node.inputs if value is not None]
    evaluator = onnx.reference.ReferenceEvaluator(ir.to_proto(node))
    (result,) = evaluator.run(None, dict(zip(names, operands, strict=True)))
    return np.asarray(result)


def _result(state: Lowering, value: ir.Value) -> Any:
    operand = state.values[value]
    assert isinstance(operand, View) and value.dtype is not None
    whole = state.contiguous(operand)
    return state.builder.emit(op.reshape(whole.var, list(static_dims(value) or ())), str(value.name))


def _type(value: ir.Value) -> Any:
    shape = static_dims(value)
    assert shape is not None and value.dtype is not None
    return relax.TensorType(list(shape), _DTYPES[value.dtype])


def _at_least_1d(strides: Strides) -> Strides:
    return strides if strides.steps else replace(strides, steps=(0,))


def _hint(expr: Any) -> str:
    return str(getattr(expr, "name_hint", "") or getattr(expr, "name", "") or "value")


def _place(node: ir.Node) -> str:
    return node.metadata_props.get(MODULE_KEY) or f"node {node.name or node.outputs[0].name}"


def refused(node: ir.Node, reason: str) -> UnsupportedError:
    """E1421: an operator of the set, used in a way that has no lowering."""
    return UnsupportedError(
        "E1421",
        f"{node.op_type} at {_place(node)}: {reason}",
        fix="compile for another target (backend.type: tvm_cpu), or report the model",
    )


__all__ = ["Lowering", "PlannedWeight", "View", "Weight", "lower_static", "refused"]
