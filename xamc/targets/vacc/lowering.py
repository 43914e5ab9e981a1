"""The state of lowering a static graph: what handlers of operators read and write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tvm import relax
from tvm.relax import op

from xamc.errors import UnsupportedError
from xamc.ir.names import MODULE_KEY
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.strided import Compute, Strides, pointwise
from xamc.targets.vacc.views import View
from xamc.targets.vacc.weights import WeightPlan

ACTIVATION = "float16"


# results of constants alone are computed here up to this many elements, and by the graph beyond
FOLDED_ELEMENTS = 65536


DTYPES = {
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


def _at_least_1d(strides: Strides) -> Strides:
    return strides if strides.steps else replace(strides, steps=(0,))


def _hint(expr: Any) -> str:
    return str(getattr(expr, "name_hint", "") or getattr(expr, "name", "") or "value")


def place(node: ir.Node) -> str:
    return node.metadata_props.get(MODULE_KEY) or f"node {node.name or node.outputs[0].name}"


def refused(node: ir.Node, reason: str) -> UnsupportedError:
    """E1421: an operator of the set, used in a way that has no lowering."""
    return UnsupportedError(
        "E1421",
        f"{node.op_type} at {place(node)}: {reason}",
        fix="compile for another target (backend.type: tvm_cpu), or report the model",
    )
