"""Integers that a graph computes from its dimensions, as expressions: what `Reshape` and the like are told.

    x ─► Shape ─► Gather ─► Concat ─► Reshape      needs the shape [n, 4], not a tensor that will hold n and 4

TVM's importer follows a few ways of writing that. Here every operator that only moves or adds up such integers is
evaluated while a graph is imported; what can't be, becomes a tensor, which the operator takes as any other.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import ir, relax, sym, tirx

_MOST = 1024
"""Elements of a constant that takes part."""
_LARGEST = 2**31
"""No dimension is larger."""
_INTEGERS = {6: "int32", 7: "int64", 9: "bool"}  # of TensorProto


class _Undecided(Exception):
    """A comparison whose result depends on the dimensions of a call."""


@dataclass(frozen=True)
class ShapeValue:
    """A small tensor of integers.

    Attributes:
        values: Python ints, booleans, or int64 expressions of dimensions.
        dtype: int64, int32 or bool.
    """

    values: NDArray[np.object_]
    dtype: str = "int64"
    # the importer looks at the type of what a converter gives
    ty: None = None

    @property
    def known(self) -> bool:
        """Whether all of them are numbers."""
        return all(isinstance(value, int) for value in self.values.flat)


def shape_value(values: Any, dtype: str = "int64") -> ShapeValue:
    """From a nested list or an array of numbers and expressions."""
    array = np.asarray(values, object) if not isinstance(values, ir.Expr) else _filled((), [values])
    return ShapeValue(_filled(array.shape, [_number(value) for value in array.flat]), dtype)


def _filled(shape: Sequence[int], values: Sequence[Any]) -> NDArray[np.object_]:
    flat = np.empty(len(values), object)
    for index, value in enumerate(values):
        flat[index] = value
    return flat.reshape(shape)


def _number(value: Any) -> Any:
    if isinstance(value, tirx.IntImm):
        return int(value.value)
    return value if isinstance(value, ir.Expr) else value.item() if isinstance(value, np.generic) else value


def as_shape_value(value: Any) -> ShapeValue | None:
    """A constant of integers, or dimensions, as such; None for anything else."""
    if isinstance(value, ShapeValue):
        return value
    if isinstance(value, relax.ShapeExpr):
        return shape_value(list(value.values))
    if isinstance(value, ir.GenericConst):
        array = value.value.numpy()
        if array.dtype.kind in "iub" and array.size <= _MOST:
            return shape_value(array, "bool" if array.dtype.kind == "b" else str(array.dtype))
    return None


def as_tensor(builder: Any, value: Any) -> Any:
    """Dimensions as a tensor of a Relax function; others as they are."""
    if isinstance(value, relax.ShapeExpr):
        value = shape_value(list(value.values))
    if not isinstance(value, ShapeValue):
        return value
    if value.known:
        return relax.const(value.values.astype(value.dtype), value.dtype)
    flat = relax.ShapeExpr([_expression(one) for one in value.values.flat])
    tensor = builder.normalize(relax.op.shape_to_tensor(flat))
    if value.dtype != "int64":
        tensor = builder.normalize(relax.op.astype(tensor, value.dtype))
    if value.values.ndim != 1:
        tensor = builder.normalize(relax.op.reshape(tensor, relax.ShapeExpr(value.values.shape)))
    return builder.emit(tensor)


def _expression(value: Any) -> Any:
    return tirx.IntImm("int64", int(value)) if isinstance(value, int) else value


class DimArithmetic:
    """Sums, products and comparisons of dimensions, simplified.

    Args:
        ranges: symbol → the smallest and largest dimension that it stands for; others are at least 1.
    """

    def __init__(self, ranges: Mapping[str, tuple[int, int]]) -> None:
        self._analyzer = sym.Analyzer()
        self._ranges = ranges
        self._seen: set[Any] = set()

    def learn(self, shape: Any) -> None:
        """Takes the symbols of a shape for dimensions."""
        for dim in shape:
            if isinstance(dim, tirx.Var) and dim not in self._seen:
                self._seen.add(dim)
                least, most = self._ranges.get(dim.name, (1, _LARGEST))
                self._analyzer.bind(dim, ir.Range.from_min_extent(least, most - least + 1))

    def simplified(self, value: Any) -> Any:
        return _number(self._analyzer.simplify(value)) if isinstance(value, ir.Expr) else value

    def proves(self, condition: Any) -> bool:
        return bool(condition) if isinstance(condition, bool | int) else bool(self._analyzer.can_prove(condition))

    def proves_equal(self, a: Any, b: Any) -> bool:
        return self.proves(_equal(a, b))

    def divide(self, a: Any, b: Any) -> Any:
        """Rounded toward zero."""
        if isinstance(b, int) and b == 0:
            raise _Undecided
        if isinstance(a, int) and isinstance(b, int):
            return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        if self.proves(a >= 0) and self.proves(b > 0):
            return self.simplified(tirx.floordiv(_expression(a), _expression(b)))
        return self.simplified(tirx.truncdiv(_expression(a), _expression(b)))

    def modulo(self, a: Any, b: Any) -> Any:
        """With the divisor's sign."""
        if isinstance(b, int) and b == 0:
            raise _Undecided
        if isinstance(a, int) and isinstance(b, int):
            return a % b
        return self.simplified(tirx.floormod(_expression(a), _expression(b)))

    def largest(self, a: Any, b: Any) -> Any:
        if self.proves(a >= b):
            return a
        return b if self.proves(b >= a) else self.simplified(tirx.max(_expression(a), _expression(b)))

    def smallest(self, a: Any, b: Any) -> Any:
        if self.proves(a <= b):
            return a
        return b if self.proves(b <= a) else self.simplified(tirx.min(_expression(a), _expression(b)))

    def compare(self, test: Callable[[Any, Any], Any], a: Any, b: Any) -> bool:
        if self.proves(test(a, b)):
            return True
        if self.proves(_OPPOSITE[test](a, b)):
            return False
        raise _Undecided


def _equal(a: Any, b: Any) -> Any:
    """An expression's own == is of the objects."""
    both = isinstance(a, int) and isinstance(b, int)
    return a == b if both else tirx.EQ(_expression(a), _expression(b))


def _unequal(a: Any, b: Any) -> Any:
    both = isinstance(a, int) and isinstance(b, int)
    return a != b if both else tirx.NE(_expression(a), _expression(b))


_OPPOSITE: dict[Callable[[Any, Any], Any], Callable[[Any, Any], Any]] = {
    _equal: _unequal,
    operator.lt: operator.ge,
    operator.le: operator.gt,
    operator.gt: operator.le,
    operator.ge: operator.lt,
}


class Evaluator:
    """Evaluates operators of dimensions."""

    def __init__(self, ranges: Mapping[str, tuple[int, int]]) -> None:
        self.arithmetic = DimArithmetic(ranges)

    def evaluate(
        self, op: str, inputs: Sequence[Any], attributes: dict[str, Any], opset: int
    ) -> list[ShapeValue] | None:
        """The outputs of an operator if it can be evaluated, else None.

        Args:
            op: its type.
            inputs: of the node; None for one that is left out.
            attributes: of the node.
            opset: the graph's operator set.
        """
        if op in ("Shape", "Size"):
            return self._shape(op, inputs[0], attributes)
        if not any(isinstance(value, ShapeValue) for value in inputs):
            return None
        given = [None if value is None else as_shape_value(value) for value in inputs]
        if any(one is None and value is not None for one, value in zip(given, inputs)):
            return None
        method = getattr(self, f"_{op.lower()}", None)
        try:
            if op in _ELEMENTWISE:
                return [self._elementwise(op, [one for one in given if one is not None])]
            made = method(given, attributes, opset) if method is not None and op in _METHODS else None
        except (_Undecided, IndexError, ValueError, TypeError, OverflowError):
            return None
        return made if made is None or isinstance(made, list) else [made]

    def _shape(self, op: str, value: Any, attributes: dict[str, Any]) -> list[ShapeValue] | None:
        if isinstance(value, ShapeValue):
            shape: list[Any] = list(value.values.shape)
        elif isinstance(getattr(value, "ty", None), relax.TensorType) and isinstance(value.ty.shape, relax.ShapeExpr):
            shape = [_number(dim) for dim in value.ty.shape.values]
            self.arithmetic.learn(shape)
        else:
            return None
        if op == "Size":
            return [shape_value(self.arithmetic.simplified(reduce(operator.mul, shape, 1)))]
        return [shape_value(shape[attributes.get("start", 0) : attributes.get("end")])]

    def _elementwise(self, op: str, operands: list[ShapeValue]) -> ShapeValue:
        compute, count, boolean = _ELEMENTWISE[op]
        arrays = np.broadcast_arrays(*(operand.values for operand in operands))
        rows = list(zip(*(array.flat for array in arrays), strict=True))
        if count == 0:  # of any number
            values = [reduce(lambda a, b: compute(self.arithmetic, a, b), row) for row in rows]
        else:
            values = [compute(self.arithmetic, *row) for row in rows]
        values = [self.arithmetic.simplified(value) for value in values]
        dtype = "bool" if boolean else operands[-1].dtype
        return ShapeValue(_filled(arrays[0].shape, values), dtype)

    # -- operators by name: of given inputs, attributes and the operator set ------------------------------------------

    def _identity(self, given: Any, attributes: Any, opset: int) -> ShapeValue:
        return given[0]  # type: ignore[no-any-return]

    def _cast(self, given: Any, attributes: Any, opset: int) -> ShapeValue | None:
        dtype = _INTEGERS.get(attributes["to"])
        if dtype is None or (dtype == "bool") != (given[0].dtype == "bool"):
            return None
        return ShapeValue(given[0].values, dtype)

    def _gather(self, given: Any, attributes: Any, opset: int) -> ShapeValue | None:
        data, places = given
        if not places.known:
            return None
        taken = np.take(data.values, places.values.astype(np.int64), attributes.get("axis", 0))
        return ShapeValue(_array(taken), data.dtype)

    def _slice(self, given: Any, attributes: Any, opset: int) -> ShapeValue | None:
        data, *bounds = given
        starts, ends, axes, steps = [*(None if one is None else one.values.tolist() for one in bounds), None, None][:4]
        if starts is None or ends is None:
            starts, ends, axes = (list(attributes[name]) for name in ("starts", "ends", "axes"))
        if any(one is not None and not one.known for one in bounds):
            return None
        places: list[Any] = [slice(None)] * data.values.ndim
        for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
            step = steps[index] if steps else 1
            axis = axes[index] if axes else index
            low = -data.values.shape[axis] - 1
            places[axis] = slice(start, None if step < 0 and end < low else end, step)
        return ShapeValue(data.values[tuple(places)], data.dtype)

    def _concat(self, given: Any, attributes: Any, opset: int) -> ShapeValue:
        return ShapeValue(np.concatenate([one.values for one in given], attributes["axis"]), given[0].dtype)

    def _unsqueeze(self, given: Any, attributes: Any, opset: int) -> ShapeValue:
        axes = attributes["axes"] if "axes" in attributes else given[1].values.tolist()
        rank = given[0].values.ndim + len(axes)
        return ShapeValue(np.expand_dims(given[0].values, tuple(int(axis) % rank for axis in axes)), given[0].dtype)

    def _squeeze(self, given: Any, attributes: Any, opset: int) -> ShapeValue:
        axes = attributes.get("axes") or (given[1].values.tolist() if len(given) > 1 and given[1] else None)
        squeezed = np.squeeze(given[0].values, None if axes is None else tuple(int(axis) for axis in axes))
        return ShapeValue(_array(squeezed), given[0].dtype)

    def _reshape(self, given: Any, attributes: Any, opset: int) -> ShapeValue | None:
        data, shape = given
        if not shape.known:
            return None
        wanted = [
            data.values.shape[axis] if dim == 0 and not attributes.get("allowzero", 0) else dim
            for axis, dim in enumerate(shape.values.tolist())
        ]
        return ShapeValue(data.values.reshape(wanted), data.dtype)

    def _expand(self, given: Any, attributes: Any, opset: int) -> ShapeValue | None:
        data, shape = given
        if not shape.known:
            return None
        target = np.broadcast_shapes(data.values.shape, tuple(shape.values.tolist()))
        return ShapeValue(np.broadcast_to(data.values, target).copy(), data.dtype)

    def _transpose(self, given: Any, attributes: Any, opset: int) -> ShapeValue:
        return ShapeValue(np.transpose(given[0].values, attributes.get("perm")), given[0].dtype)

    def _split(self, given: Any, attributes: Any, opset: int) -> list[ShapeValue]:
        data, axis, count = given[0], attributes.get("axis", 0), attributes["tvm_custom"]["num_outputs"]
        sizes = list(attributes.get("split", ())) or (given[1].values.tolist() if len(given) > 1 and given[1] else [])
        dim = data.values.shape[axis]
        part = -(-dim // count)
        sizes = sizes or [part] * (count - 1) + [dim - part * (count - 1)]
        return [ShapeValue(one, data.dtype) for one in np.split(data.values, np.cumsum(sizes)[:-1], axis)]

    def _where(self, given: Any, attributes: Any, opset: int) -> ShapeValue | None:
        condition, *both = given
        if not condition.known:
            return None
        return ShapeValue(_array(np.where(condition.values.astype(bool), *(one.values for one in both))), both[0].dtype)

    def _constantofshape(self, given: Any, attributes: Any, opset: int) -> ShapeValue | None:
        from onnx import numpy_helper

        value = numpy_helper.to_array(attributes["value"]).reshape(-1) if "value" in attributes else None
        if value is None or value.dtype.kind not in "ib" or not given[0].known:
            return None
        shape = given[0].values.tolist()
        return ShapeValue(
            np.full(shape, value[0].item(), object), "bool" if value.dtype.kind == "b" else str(value.dtype)
        )

    def _range(self, given: Any, attributes: Any, opset: int) -> ShapeValue | None:
        if not all(one.known for one in given):
            return None
        values = np.arange(*(int(one.values.reshape(())[()]) for one in given))
        return shape_value(values, given[0].dtype) if values.size <= _MOST else None

    def _scatterelements(self, given: Any, attributes: Any, opset: int) -> ShapeValue | None:
        data, places, updates = given
        if data.values.ndim != 1 or not places.known or attributes.get("reduction", b"none") != b"none":
            return None
        values = data.values.copy()
        for place, update in zip(places.values.tolist(), updates.values, strict=True):
            values[place] = update
        return ShapeValue(values, data.dtype)

    def _scatternd(self, given: Any, attributes: Any, opset: int) -> ShapeValue | None:
        data, places, updates = given
        if places.values.shape[-1] != 1:
            return None
        flat = ShapeValue(places.values.reshape(-1), places.dtype)
        return self._scatterelements([data, flat, updates], attributes, opset)

    def _reduced(self, given: Any, attributes: Any, combine: Callable[[Any, Any], Any]) -> ShapeValue | None:
        """Of a vector as a whole."""
        data = given[0]
        axes = attributes.get("axes") or (given[1].values.tolist() if len(given) > 1 and given[1] else None)
        if data.values.ndim != 1 or not data.values.size or (not axes and attributes.get("noop_with_empty_axes", 0)):
            return None
        total = self.arithmetic.simplified(reduce(combine, data.values.tolist()))
        return shape_value([total] if attributes.get("keepdims", 1) else total, data.dtype)

    def _reduceprod(self, given: Any, attributes: Any, opset: int) -> ShapeValue | None:
        return self._reduced(given, attributes, operator.mul)

    def _reducesum(self, given: Any, attributes: Any, opset: int) -> ShapeValue | None:
        return self._reduced(given, attributes, operator.add)

    def _reducemax(self, given: Any, attributes: Any, opset: int) -> ShapeValue | None:
        return self._reduced(given, attributes, self.arithmetic.largest)

    def _reducemin(self, given: Any, attributes: Any, opset: int) -> ShapeValue | None:
        return self._reduced(given, attributes, self.arithmetic.smallest)


def _array(value: Any) -> NDArray[np.object_]:
    """An element that NumPy gave in place of a tensor without axes, as such a tensor."""
    return value if isinstance(value, np.ndarray) else _filled((), [value])


_NAMES = """
Cast Concat ConstantOfShape Expand Gather Identity Range ReduceMax ReduceMin ReduceProd ReduceSum Reshape
ScatterElements ScatterND Slice Split Squeeze Transpose Unsqueeze Where
"""
_METHODS = frozenset(_NAMES.split())
# operator → what computes it, of how many (0: any number, two at a time), and whether it gives booleans
_ELEMENTWISE: dict[str, tuple[Callable[..., Any], int, bool]] = {
    "Abs": (lambda a, x: x if a.proves(x >= 0) else a.largest(x, 0 - x), 1, False),
    "Add": (lambda a, x, y: x + y, 2, False),
    "And": (lambda a, x, y: bool(x) and bool(y), 2, True),
    "Div": (DimArithmetic.divide, 2, False),
    "Equal": (lambda a, x, y: a.compare(_equal, x, y), 2, True),
    "Greater": (lambda a, x, y: a.compare(operator.gt, x, y), 2, True),
    "GreaterOrEqual": (lambda a, x, y: a.compare(operator.ge, x, y), 2, True),
    "Less": (lambda a, x, y: a.compare(operator.lt, x, y), 2, True),
    "LessOrEqual": (lambda a, x, y: a.compare(operator.le, x, y), 2, True),
    "Max": (DimArithmetic.largest, 0, False),
    "Min": (DimArithmetic.smallest, 0, False),
    "Mod": (DimArithmetic.modulo, 2, False),
    "Mul": (lambda a, x, y: x * y, 2, False),
    "Neg": (lambda a, x: 0 - x, 1, False),
    "Not": (lambda a, x: not x, 1, True),
    "Or": (lambda a, x, y: bool(x) or bool(y), 2, True),
    "Sub": (lambda a, x, y: x - y, 2, False),
    "Sum": (lambda a, x, y: x + y, 0, False),
}
