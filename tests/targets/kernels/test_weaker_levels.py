"""Every kernel family on x86-64 without extensions, and on aarch64 under an emulator, against the same references."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import numpy as np
import pytest

from tests.targets.kernels import (
    emulated,
    test_attention,
    test_decode_step,
    test_emit,
    test_integer_linear,
    test_linear,
    test_rope,
    test_rows,
)
from tests.targets.kernels.harness import HOST, PLAIN, kernel
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import LEVELS, Isa
from xamc.targets.kernels.packing import WeightFormat

INT8, INT4 = WeightFormat("int8"), WeightFormat("uint4", 32)
HEADS = (4, 4, 18)
FAMILIES: dict[str, Callable[[Isa], None]] = {
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
    "gemv_float16": lambda isa: test_linear.check(WeightFormat("float16"), isa, 50, "one", (1,), True),
    "gemm_int8": lambda isa: test_linear.check(INT8, isa, 50, "any", (3, 13), True),
    "integer_gemv_int8": lambda isa: test_integer_linear.check(INT8, isa, 50, "one", (1,), True),
    "integer_gemv_int4": lambda isa: test_integer_linear.check(INT4, isa, 50, "one", (1,), True),
    "integer_gemm_int4": lambda isa: test_integer_linear.check(INT4, isa, 50, "any", (3, 13), True),
    "decode_step": lambda isa: test_decode_step.test_linear_layers_take_along_what_is_around_them(isa, "norm"),
    "attention_decode": lambda isa: test_attention.check(test_attention.CASES[4], isa, "one", [(1, (5, 130, 0), 131)]),
    "attention_prefill": lambda isa: test_attention.check(test_attention.CASES[0], isa, "any", [(33, (0, 3), 40)]),
}
SLOW = ("decode_step", "gemm_int8", "integer_gemm_int4", "attention_decode", "attention_prefill")
"""A dozen seconds of compilation each; `make test-levels` runs them."""
ALL = bool(os.environ.get("XAMC_ALL_LEVELS"))
AT_ONCE = list(FAMILIES) if ALL else [name for name in FAMILIES if name not in SLOW]
INTEGERS = ["integer_gemv_int8", "integer_gemv_int4"]
X86 = [PLAIN, LEVELS["x86-64-v2"], LEVELS["x86-64-v3"]] if ALL else [PLAIN]
"""The tests of each kernel run at the levels above the plain one anyway."""


@pytest.mark.parametrize("isa", X86, ids=lambda isa: isa.name)
@pytest.mark.parametrize(
    "family", list(FAMILIES) if ALL else [*INTEGERS, "float16_read", "float16_written", "silu_mul"]
)
def test_x86_64(isa: Isa, family: str) -> None:
    """What a lack of instructions changes."""
    if not set(isa.cpu_flags) <= set(HOST.cpu_flags):
        pytest.skip(f"needs a processor of {isa.name}")
    FAMILIES[family](isa)


@emulated.needs_emulator
@pytest.mark.parametrize("isa", emulated.ARM_LEVELS[:1], ids=lambda isa: isa.name)
@pytest.mark.parametrize("family", AT_ONCE)
def test_aarch64(isa: Isa, family: str) -> None:
    """On a processor model without dot products: one would stop it."""
    FAMILIES[family](isa)


@emulated.needs_emulator
@pytest.mark.parametrize("isa", emulated.ARM_LEVELS[1:], ids=lambda isa: isa.name)
@pytest.mark.parametrize("family", list(FAMILIES) if ALL else INTEGERS)
def test_aarch64_dot_products(isa: Isa, family: str) -> None:
    FAMILIES[family](isa)


@emulated.needs_emulator
def test_the_emulator_stops_at_an_instruction_that_its_processor_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the levels pass on their own processors says something."""
    monkeypatch.setitem(emulated.PROCESSORS, "aarch64+dotprod", emulated.PROCESSORS["aarch64"])
    with pytest.raises(AssertionError, match="exit status -4"):
        FAMILIES["integer_gemv_int4"](emulated.ARM_LEVELS[1])


@emulated.needs_emulator
def test_a_kernel_that_is_wrong_fails_under_the_emulator() -> None:
    isa = emulated.ARM_LEVELS[0]

    def body() -> None:
        x, y = E.parameter("x", (8,), "float32"), E.parameter("y", (8,), "float32")
        E.store(y, [0], E.load(x, [0], 4) + E.const(1, 4), 4)

    x, y = np.arange(8, dtype=np.float32), np.zeros(8, np.float32)
    kernel(E.build("f", body), isa)(x, y)
    assert y.tolist() == [1, 2, 3, 4, 0, 0, 0, 0]


@emulated.needs_emulator
def test_every_arm_level_has_a_processor() -> None:
    assert set(emulated.PROCESSORS) == {isa.name for isa in emulated.ARM_LEVELS}
    known = subprocess.run([emulated.EMULATOR, "-cpu", "help"], capture_output=True, text=True).stdout.split()
    assert set(emulated.PROCESSORS.values()) <= set(known)
