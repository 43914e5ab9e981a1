"""Linear layers: GEMV for one row of activations, GEMM for any number of rows."""

from __future__ import annotations

from functools import partial
from typing import Literal

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.gemm import emit_gemm
from xamc.targets.kernels.gemv import emit_gemv
from xamc.targets.kernels.integer_gemm import emit_integer_gemm
from xamc.targets.kernels.integer_gemv import emit_integer_gemv
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.packing import WeightFormat
from xamc.targets.kernels.tiles import DEFAULT_LINEAR, LinearTiles
from xamc.targets.kernels.weights import PackedWeight

Activations = Literal["float32", "int8"]

_EMITTERS = {"float32": (emit_gemv, emit_gemm), "int8": (emit_integer_gemv, emit_integer_gemm)}
_FEW_ROWS = (2, 4)
"""Up to so many rows the weights are streamed once for all of them; from then on unpacking them to a scratch pays."""


def linear(
    n: int,
    k: int,
    fmt: WeightFormat,
    isa: Isa,
    *,
    m: Literal["one", "any"],
    bias: bool = False,
    residual: bool = False,
    activations: Activations = "float32",
    tiles: LinearTiles = DEFAULT_LINEAR,
) -> E.PrimFunc:
    """y = x W^T (+ bias) (+ residual); x and y are float32.

    Args:
        n: output features N.
        k: input features K.
        fmt: how the weights are stored; the packed buffers follow `packed_layout(n, k, fmt)`.
        isa: the level to generate for.
        m: ``one`` for exactly one row of activations, ``any`` for a symbolic number of rows M.
        bias: whether there is a bias.
        residual: whether a tensor of the output's shape is added.
        activations: what x is multiplied as; ``int8`` quantizes it inside, for weights of integers.
        tiles: how the work is cut.

    Returns:
        A PrimFunc with the parameters x float32 [M, K], the packed buffers, bias float32 [N] if any, residual
        float32 [M, N] if any, y float32 [M, N].

    Raises:
        UnsupportedError: E1464, the group size does not divide K.
    """

    def body() -> None:
        rows = 1 if m == "one" else E.dynamic("m")
        x = E.parameter("x", (rows, k), "float32")
        weight = PackedWeight(n, k, fmt, isa, tiles)
        bias_buffer = E.parameter("bias", (n,), "float32") if bias else None
        residual_buffer = E.parameter("residual", (rows, n), "float32") if residual else None
        y = E.parameter("y", (rows, n), "float32")
        gemv, gemm = _EMITTERS[activations if fmt.quantized else "float32"]
        if m == "one":
            gemv(weight, x, bias_buffer, residual_buffer, y)
            return

        def by_rows(few: tuple[int, ...]) -> None:
            if few:
                stream = partial(gemv, weight, x, bias_buffer, residual_buffer, y, few[0])
                E.when(rows <= few[0], stream, lambda: by_rows(few[1:]))
            else:
                gemm(weight, x, bias_buffer, residual_buffer, y)

        by_rows(_FEW_ROWS)

    suffix = "".join(("_bias" if bias else "", "_residual" if residual else ""))
    group = f"g{fmt.group_size}" if fmt.group_size else ""
    quantized = "_a8" if activations == "int8" and fmt.quantized else ""
    return E.build(f"linear_{m}_{n}x{k}_{fmt.kind}{group}{quantized}{suffix}", body)
