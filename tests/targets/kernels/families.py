"""The kernel families that are executed at levels of emulated processors: a check for each, given the level."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np

from tests.artifact.test_packing import weights
from tests.targets.kernels import (
    test_attention,
    test_decode_rows,
    test_decode_step,
    test_emit,
    test_integer_linear,
    test_linear,
    test_rope,
    test_rows,
)
from tests.targets.kernels.harness import assert_close, kernel, normal, rng
from xamc.artifact.packing import WeightFormat, pack_rows, packed_layout
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.linear import linear

INT8, INT4 = WeightFormat("int8"), WeightFormat("uint4", 32)
HEADS = (4, 4, 18)
ROWS = (1, 2, 3, 9, 32, 33)
"""One row, those that are streamed a few at a time, and tiles of a block, the last of them partial."""


def check_bf16_gemm(fmt: WeightFormat, isa: Isa) -> None:
    """Both operands are rounded to bfloat16, but where up to four rows are streamed in float32."""
    n, k = 50, test_linear.columns(fmt)
    stored, scales, w = weights(fmt, n, k)
    packed = pack_rows(stored, fmt, **scales)
    buffers = [packed[buffer.name] for buffer in packed_layout(n, k, fmt).buffers]
    run = kernel(linear(n, k, fmt, isa, m="any", activations="bfloat16"), isa)
    for count in (3, 13, 249):
        x, y = normal(rng(count), count, k), np.full((count, n), np.nan, np.float32)
        run(x, *buffers, y)
        operands = (x, w) if count <= 4 else (a.astype(ml_dtypes.bfloat16) for a in (x, w))
        x64, w64 = (a.astype(np.float64) for a in operands)
        assert_close(y, x64 @ w64.T, "kernel_sums", np.abs(x) @ np.abs(w).T + 1)


def linear_layers(fmt: WeightFormat) -> Callable[[Isa], None]:
    def run(isa: Isa) -> None:
        test_linear.check(fmt, isa, 50, "one", (1,), True)
        test_linear.check(fmt, isa, 50, "any", (3, 13, 249), True)
        if isa.has_bf16_dot:
            check_bf16_gemm(fmt, isa)

    return run


def integer_layers(fmt: WeightFormat) -> Callable[[Isa], None]:
    def run(isa: Isa) -> None:
        test_integer_linear.check(fmt, isa, 50, "one", (1,), True)
        test_integer_linear.check(fmt, isa, 50, "any", ROWS, True)
        if fmt.kind == "int8" and isa.has_vnni:
            test_integer_linear.check(fmt, isa, 50, "one", (1,), True, "int16")
            test_integer_linear.check(fmt, isa, 50, "any", ROWS, True, "int16")

    return run


EVERYWHERE: Mapping[str, Callable[[Isa], None]] = {
    "exponential": test_emit.test_exponential,
    "float16_read": lambda isa: test_emit.test_sixteen_bit_to_float_is_exact_for_every_value(isa, "float16"),
    "float16_written": lambda isa: test_emit.test_float_to_sixteen_bit_rounds_to_nearest_even(isa, "float16"),
    "bfloat16_written": lambda isa: test_emit.test_float_to_sixteen_bit_rounds_to_nearest_even(isa, "bfloat16"),
    "transpose": test_emit.test_transpose_and_sums_of_a_block,
    "rms_norm": lambda isa: test_rows.test_rms_norm(isa, 77),
    "add_rms_norm": lambda isa: test_rows.test_add_rms_norm(isa, 77),
    "silu_mul": lambda isa: test_rows.test_silu_mul(isa, True),
    "embedding": lambda isa: test_rows.test_embedding_reads_rows_of_a_packed_weight(isa, INT4),
    "rope": lambda isa: test_rope.test_rope_reads_heads_out_of_wider_rows(isa, *HEADS),
    "rope_kv_write": lambda isa: test_rope.test_rope_kv_write(isa, *HEADS, "int8", True),
}
NARROW: Mapping[str, Callable[[Isa], None]] = {
    **EVERYWHERE,
    "gemv_float16": lambda isa: test_linear.check(WeightFormat("float16"), isa, 50, "one", (1,), True),
    "gemm_int8": lambda isa: test_linear.check(INT8, isa, 50, "any", (3, 13, 37), True),
    "integer_gemv_int8": lambda isa: test_integer_linear.check(INT8, isa, 50, "one", (1,), True),
    "integer_gemv_int4": lambda isa: test_integer_linear.check(INT4, isa, 50, "one", (1,), True),
    "integer_gemm_int4": lambda isa: test_integer_linear.check(INT4, isa, 50, "any", (3, 13, 37), True),
    "integer_gate_int8": lambda isa: test_linear.check_gate(INT8, isa, "int8", (3, 13, 33)),
    "decode_step": lambda isa: test_decode_step.test_linear_layers_take_along_what_is_around_them(isa, "norm"),
    "decode_rows": lambda isa: test_decode_rows.check_linear(INT4, "int16", isa, "plain", (3, 12)),
    "attention_decode": lambda isa: test_attention.check(test_attention.CASES[4], isa, "one", [(1, (5, 130, 0), 131)]),
    "attention_prefill": lambda isa: test_attention.check(test_attention.CASES[0], isa, "any", [(33, (0, 3), 40)]),
}
"""At the plain level, the ones up to AVX2, and those of ARM."""
WIDE: Mapping[str, Callable[[Isa], None]] = {
    "integer_int4": integer_layers(INT4),
    "integer_int4_g128": integer_layers(WeightFormat("uint4", 128)),
    "integer_int8": integer_layers(INT8),
    "integer_int8_g32": integer_layers(WeightFormat("int8", 32)),
    "linear_float16": linear_layers(WeightFormat("float16")),
    "linear_bfloat16": linear_layers(WeightFormat("bfloat16")),
    "linear_float32": linear_layers(WeightFormat("float32")),
    "linear_int8": linear_layers(INT8),
    "linear_int4": linear_layers(INT4),
    "integer_gate_int4": lambda isa: test_linear.check_gate(INT4, isa, "int8", (3, 33)),
    "integer_gate_int8": lambda isa: test_linear.check_gate(INT8, isa, "int8", (3, 33)),
    "decode_step_norm": lambda isa: test_decode_step.test_linear_layers_take_along_what_is_around_them(isa, "norm"),
    "decode_step_gate": lambda isa: test_decode_step.test_gate_and_up_are_one_launch(isa),
    "decode_step_attention": lambda isa: test_decode_step.test_attention_rotates_writes_and_reads_the_cache(
        isa, "int8", None, 70, False
    ),
    "decode_rows_int8": lambda isa: test_decode_rows.check_linear(INT8, "int16", isa, "norm", (3, 12)),
    "decode_rows_attention": lambda isa: test_decode_rows.check_attention(isa, "float16", 70, False, (131, 0, 64)),
    "decode_step_embedding": test_decode_step.test_an_embedding_is_the_first_instruction,
    "attention_decode_float16": lambda isa: test_attention.check(
        test_attention.CASES[1], isa, "one", [(1, (5, 130, 0), 131)]
    ),
    "attention_decode_int8": lambda isa: test_attention.check(
        test_attention.CASES[4], isa, "one", [(1, (5, 130, 0), 131)]
    ),
    "attention_prefill_float32": lambda isa: test_attention.check(
        test_attention.CASES[0], isa, "any", [(33, (0, 3), 40)]
    ),
    "attention_prefill_bfloat16": lambda isa: test_attention.check(
        test_attention.CASES[2], isa, "any", [(33, (0, 3), 40)]
    ),
    "attention_prefill_int8": lambda isa: test_attention.check(test_attention.CASES[5], isa, "any", [(33, (0, 3), 40)]),
    **EVERYWHERE,
}
"""At those of 512 bits, where more tiles and formats have code of their own."""
