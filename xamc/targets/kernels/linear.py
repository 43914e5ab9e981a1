"""Linear layers: GEMV for one row of activations; few rows and GEMM for any number of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from xamc.artifact.packing import WeightFormat, packed_layout
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.few_rows import MOST_ROWS, FewRows, Heights, RowArithmetic, Take
from xamc.targets.kernels.float_gemv import FloatProducts
from xamc.targets.kernels.float_rows import FloatRows
from xamc.targets.kernels.gemm import emit_gemm
from xamc.targets.kernels.gemm_output import Destination
from xamc.targets.kernels.gemv import Outputs, Products, emit_gemv, is_small
from xamc.targets.kernels.integer_dot import IntegerActivations
from xamc.targets.kernels.integer_gemm import emit_integer_gemm
from xamc.targets.kernels.integer_gemv import IntegerProducts
from xamc.targets.kernels.integer_rows import IntegerRows
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.microkernel import FLOAT32, TileArithmetic, bf16_arithmetic
from xamc.targets.kernels.threads import OWN_LAUNCH, launch
from xamc.targets.kernels.tiles import DEFAULT_LINEAR, LinearTiles
from xamc.targets.kernels.weights import PackedWeight

Activations = Literal["float32", "bfloat16"] | IntegerActivations

_FEW_BEFORE_BF16 = 4
"""So few rows are multiplied in float32 also where many are in bfloat16."""
_SERIAL_ROWS = 8
"""Below this, waking the other threads to prepare few rows costs more than they save."""


def linear(
    n: int,
    k: int,
    fmt: WeightFormat,
    isa: Isa,
    *,
    m: Literal["one", "any"],
    bias: bool = False,
    residual: bool = False,
    gate: bool = False,
    activations: Activations = "float32",
    tiles: LinearTiles = DEFAULT_LINEAR,
) -> E.PrimFunc:
    """y = x W^T (+ bias) (+ residual), or a gate: silu of W's first half times its second; x and y are float32.

    Args:
        n: output features N.
        k: input features K.
        fmt: how the weights are stored; the packed buffers follow `packed_layout(n, k, fmt)`.
        isa: the level to generate for.
        m: ``one`` for exactly one row of activations, ``any`` for a symbolic number of rows M.
        bias: whether there is a bias.
        residual: whether a tensor of the output's shape is added.
        gate: whether y [M, N/2] is gated; N is then a multiple of two panels, without bias and residual.
        activations: what x is multiplied as. ``bfloat16`` rounds x and the weights where the GEMM has the level's dot
            product of them; other levels and few rows multiply in float32. ``int8`` and ``int16`` quantize x inside,
            for weights of integers, as `IntegerDot` says; other weights are multiplied in float32.
        tiles: how the work is cut.

    Returns:
        A PrimFunc with the parameters x float32 [M, K], the packed buffers, bias float32 [N] if any, residual
        float32 [M, N] if any, y float32 [M, N], or [M, N/2] of a gate.

    Raises:
        UnsupportedError: E1464, the group size does not divide K.
    """

    def body() -> None:
        rows = 1 if m == "one" else E.dynamic("m")
        x = E.parameter("x", (rows, k), "float32")
        weight = PackedWeight(n, k, fmt, isa, tiles)
        bias_buffer = E.parameter("bias", (n,), "float32") if bias else None
        residual_buffer = E.parameter("residual", (rows, n), "float32") if residual else None
        y = E.parameter("y", (rows, n // 2 if gate else n), "float32")
        integer = integers(fmt, activations)
        if m == "one":
            launched = not is_small(weight.layout)
            with launch() if launched else nullcontext():
                # every thread rounds the activations for itself, to memory of its own
                inputs = (x, bias_buffer, residual_buffer)
                emit_gemv(weight, products(weight, activations), *inputs, y, gate=gate, launched=launched)
            return

        def few() -> None:
            emit_few_rows(x, Outputs(weight, bias_buffer, residual_buffer, y), activations, gate)

        def many() -> None:
            into = Destination(y, bias_buffer, residual_buffer, gate)
            if integer is not None:
                emit_integer_gemm(weight, x, into, integer)
            else:
                emit_gemm(weight, x, into, gemm_arithmetic(isa, activations))

        rounds = integer is None and gemm_arithmetic(isa, activations) is not FLOAT32
        E.when(rows <= (_FEW_BEFORE_BF16 if rounds else MOST_ROWS), few, many)

    suffix = "".join(("_bias" if bias else "", "_residual" if residual else "", "_gate" if gate else ""))
    group = f"g{fmt.group_size}" if fmt.group_size else ""
    rounded = "" if activations == "float32" else f"_{activations}"
    function = E.build(f"linear_{m}_{n}x{k}_{fmt.kind}{group}{rounded}{suffix}", body)
    launches = m == "one" and not is_small(packed_layout(n, k, fmt))
    return function.with_attr(OWN_LAUNCH, True) if launches else function


def gemm_arithmetic(isa: Isa, activations: Activations) -> TileArithmetic:
    """What many rows are multiplied in: bfloat16 only where that is asked for and the level has the instruction."""
    return (bf16_arithmetic(isa) if activations == "bfloat16" else None) or FLOAT32


def emit_few_rows(x: E.Buffer, outputs: Outputs, activations: Activations, gate: bool) -> None:
    """Emits Y = X W^T for X [M, K] of 1 to `MOST_ROWS` rows."""
    weight, rows = outputs.weight, x.shape[0]
    heights = Heights(weight.isa, rows)

    def take(count: int, dtype: str) -> E.Buffer:
        # TVM sizes working memory by shapes alone
        return E.scratch((MOST_ROWS * count,), dtype)

    arithmetic = row_arithmetic(weight, activations, heights.padded, take)

    def fill(loop: Callable[[E.Expr], AbstractContextManager[E.Expr]]) -> None:
        with loop(heights.padded) as row:
            # rows that only fill a tile are copies of the last one
            arithmetic.fill(x, E.let(E.minimum(row, rows - 1)), row)

    E.when(rows < _SERIAL_ROWS, lambda: fill(E.serial), lambda: fill(E.parallel))
    loop = E.serial if is_small(weight.layout) else E.parallel
    with loop(weight.layout.panels // (2 if gate else 1)) as panel:
        FewRows(outputs, arithmetic, heights, rows, gate).emit(panel, E.i32(1))


def products(weight: PackedWeight, activations: Activations) -> Products:
    """How one row of activations is multiplied with a weight; floats always as floats."""
    integer = integers(weight.format, activations)
    return FloatProducts(weight) if integer is None else IntegerProducts(weight, integer)


def row_arithmetic(weight: PackedWeight, activations: Activations, padded: E.Expr, take: Take) -> RowArithmetic:
    """How few rows, which tiles cover with `padded`, are multiplied with a weight; floats always as floats."""
    integer = integers(weight.format, activations)
    return FloatRows(weight, padded, take) if integer is None else IntegerRows(weight, integer, padded, take)


def integers(fmt: WeightFormat, activations: Activations) -> IntegerActivations | None:
    """What weights of a format have their inputs rounded to, or None where they are multiplied as floats."""
    return activations if fmt.quantized and (activations == "int8" or activations == "int16") else None
