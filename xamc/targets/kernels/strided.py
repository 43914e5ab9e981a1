"""Operators that work element by element on tensors read through strides: arithmetic, copies, concatenations.

Every buffer is flat; a `Strides` says how an operand's elements lie in it, so that transposes, slices and broadcasts
cost nothing until somebody computes with them. Floats are read into float32 and rounded once, when they are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import Isa

Compute = Callable[[Sequence[E.Expr], int], E.Expr]
"""(the operands' elements, lanes) -> the result's elements; floats are float32."""

PARALLEL_ELEMENTS = 16384
"""Below this, waking the other threads costs more than they save."""
_CHUNK = 4096
"""A tensor that is one run of elements is cut into chunks of at most this many."""


@dataclass(frozen=True)
class Strides:
    """How an operand is read.

    Attributes:
        dtype: of the buffer's elements; booleans are int8, 0 or 1.
        size: elements of the flat buffer.
        offset: of the first element.
        steps: per dimension of the result, the distance of neighbours; 0 repeats an element.
    """

    dtype: str
    size: int
    offset: int
    steps: tuple[int, ...]

    @staticmethod
    def contiguous(dtype: str, shape: Sequence[int]) -> Strides:
        """A whole tensor in C order."""
        return Strides(dtype, prod(shape), 0, row_major(shape))


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Distances of neighbours in C order."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def pointwise(
    name: str, shape: Sequence[int], operands: Sequence[Strides], dtype: str, compute: Compute, isa: Isa
) -> E.PrimFunc:
    """y[i] = compute(x0[i], x1[i], ...) for every index i of `shape`.

    Args:
        name: of the PrimFunc.
        shape: of the result.
        operands: how each is read; one step per dimension of `shape`.
        dtype: of the result; booleans are int8.
        compute: what is done with a vector of elements of each operand.
        isa: the level to generate for.

    Returns:
        A PrimFunc with the operands' flat buffers and y, flat.
    """

    def body() -> None:
        buffers = [E.parameter(f"x{i}", (operand.size,), operand.dtype) for i, operand in enumerate(operands)]
        y = E.parameter("y", (prod(shape),), dtype)
        target = Strides.contiguous(dtype, shape)
        emit_region(shape, list(zip(buffers, operands, strict=True)), (y, target), compute, isa)

    return E.build(name, body)


def concatenate(
    name: str, shapes: Sequence[Sequence[int]], operands: Sequence[Strides], axis: int, dtype: str, isa: Isa
) -> E.PrimFunc:
    """The operands, of shapes `shapes`, one after the other along `axis`.

    Returns:
        A PrimFunc with the operands' flat buffers and y, flat.
    """
    total = list(shapes[0])
    total[axis] = sum(shape[axis] for shape in shapes)

    def body() -> None:
        buffers = [E.parameter(f"x{i}", (operand.size,), operand.dtype) for i, operand in enumerate(operands)]
        y = E.parameter("y", (prod(total),), dtype)
        steps, start = row_major(total), 0
        for shape, operand, buffer in zip(shapes, operands, buffers, strict=True):
            target = Strides(dtype, prod(total), start * steps[axis], steps)
            emit_region(shape, [(buffer, operand)], (y, target), lambda values, lanes: values[0], isa)
            start += shape[axis]

    return E.build(name, body)


def take_rows(name: str, count: int, rows: int, width: int, table_dtype: str, dtype: str, isa: Isa) -> E.PrimFunc:
    """y[t] = table[ids[t]].

    Args:
        name: of the PrimFunc.
        count: ids T.
        rows: of the table; ids must lie in [0, rows), which the caller checks.
        width: elements of a row.
        table_dtype: float32 or float16.
        dtype: of the result.
        isa: the level to generate for.

    Returns:
        A PrimFunc (table [rows * width], ids int64 [T], y [T * width]).
    """

    def body() -> None:
        table = E.parameter("table", (rows * width,), table_dtype)
        ids = E.parameter("ids", (count,), "int64")
        y = E.parameter("y", (count * width,), dtype)
        loop = E.parallel if count * width >= PARALLEL_ELEMENTS else E.serial
        with loop(count) as t:
            first = E.let(E.load(ids, [t]) * width)

            def copy(c: E.Expr, lanes: int) -> None:
                value = E.load_float(table, [first + c], lanes, isa)
                E.store_float(y, [t * width + c], value, lanes, isa)

            E.lanewise(width, isa, copy)

    return E.build(name, body)


def emit_region(
    shape: Sequence[int],
    operands: Sequence[tuple[E.Buffer, Strides]],
    target: tuple[E.Buffer, Strides],
    compute: Compute,
    isa: Isa,
) -> None:
    """Emits the loops over all indices of `shape`: rows in parallel, vectors along the last dimension."""
    dims, steps = merge_dimensions(shape, [s.steps for _, s in (*operands, target)])
    inner, outer = dims[-1], dims[:-1]
    buffers = [buffer for buffer, _ in operands]
    loop = E.parallel if prod(dims) >= PARALLEL_ELEMENTS and prod(outer) > 1 else E.serial
    with loop(prod(outer)) as row:
        bases = [
            E.let(row_offset(row, outer, step[:-1]) + strides.offset)
            for step, (_, strides) in zip(steps, (*operands, target), strict=True)
        ]

        def element(c: E.Expr, lanes: int) -> None:
            values = [
                E.let(read(buffer, base, step[-1], c, lanes, isa))
                for buffer, base, step in zip(buffers, bases, steps, strict=False)
            ]
            write(target[0], bases[-1], steps[-1][-1], c, compute(values, lanes), lanes, isa)

        E.lanewise(inner, isa, element)


def merge_dimensions(
    shape: Sequence[int], steps: Sequence[tuple[int, ...]]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The fewest dimensions that visit the same elements in the same order, and the steps along them.

    A single long dimension is cut in two, so that there are rows to share among threads.
    """
    dims: list[int] = []
    merged: list[list[int]] = [[] for _ in steps]
    for axis, dim in enumerate(shape):
        if dim == 1:
            continue
        if dims and all(kept[-1] == step[axis] * dim for kept, step in zip(merged, steps, strict=True)):
            dims[-1] *= dim
            for kept, step in zip(merged, steps, strict=True):
                kept[-1] = step[axis]
        else:
            dims.append(dim)
            for kept, step in zip(merged, steps, strict=True):
                kept.append(step[axis])
    if not dims:
        return (1,), [(0,) for _ in steps]
    if len(dims) == 1 and dims[0] > _CHUNK:
        chunk = next((c for c in range(_CHUNK, 0, -16) if dims[0] % c == 0), dims[0])
        dims = [dims[0] // chunk, chunk]
        merged = [[kept[0] * chunk, kept[0]] for kept in merged]
    return tuple(dims), [tuple(kept) for kept in merged]


def row_offset(row: E.Expr, outer: Sequence[int], steps: Sequence[int]) -> E.Expr:
    """Where the `row`-th combination of the outer indices begins."""
    offset: E.Expr = E.i64(0)
    rest = row
    for dim, step in zip(reversed(outer), reversed(steps), strict=True):
        offset = offset + rest % dim * step
        rest = rest // dim
    return offset


def read(buffer: E.Buffer, base: E.Expr, step: int, index: E.Expr, lanes: int, isa: Isa) -> E.Expr:
    """Elements index, index + 1, ... of a row as float32 (or the integer type of the buffer)."""
    dtype = str(buffer.ty.dtype)
    if step == 0:
        return E.splat(E.load_float(buffer, [base], 1, isa), lanes)
    if step == 1 or lanes == 1:
        return E.load_float(buffer, [base + index * step], lanes, isa)
    value = E.load_strided(buffer, base + index * step, step, lanes)
    return E.half_to_float(value, lanes, isa) if dtype == "float16" else value


def write(buffer: E.Buffer, base: E.Expr, step: int, index: E.Expr, value: E.Expr, lanes: int, isa: Isa) -> None:
    """Stores elements index, index + 1, ... of a row; results are never strided along their last dimension."""
    assert step == 1 or lanes == 1, "a result with a stride"
    E.store_float(buffer, [base + index * step], value, lanes, isa)
