"""Every kernel family on x86-64 without extensions, and on aarch64 under an emulator, against the same references."""

from __future__ import annotations

import os
import subprocess

import numpy as np
import pytest

from tests.targets.kernels import emulated
from tests.targets.kernels.families import NARROW
from tests.targets.kernels.harness import HOST, PLAIN, kernel
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import LEVELS, Isa

SLOW = ("decode_step", "decode_rows", "gemm_int8", "integer_gemm_int4", "attention_decode", "attention_prefill")
"""A dozen seconds of compilation each; `make test-levels` runs them."""
ALL = bool(os.environ.get("XAMC_ALL_LEVELS"))
AT_ONCE = list(NARROW) if ALL else [name for name in NARROW if name not in SLOW]
INTEGERS = ["integer_gemv_int8", "integer_gemv_int4"]
X86 = [PLAIN, LEVELS["x86-64-v2"], LEVELS["x86-64-v3"]] if ALL else [PLAIN]
"""The tests of each kernel run at the levels above the plain one anyway."""


@pytest.mark.parametrize("isa", X86, ids=lambda isa: isa.name)
@pytest.mark.parametrize("family", list(NARROW) if ALL else [*INTEGERS, "float16_read", "float16_written", "silu_mul"])
def test_x86_64(isa: Isa, family: str) -> None:
    """What a lack of instructions changes."""
    if not set(isa.cpu_flags) <= set(HOST.cpu_flags):
        pytest.skip(f"needs a processor of {isa.name}")
    NARROW[family](isa)


@emulated.needs_emulator
@pytest.mark.parametrize("isa", emulated.ARM_LEVELS[:1], ids=lambda isa: isa.name)
@pytest.mark.parametrize("family", AT_ONCE)
def test_aarch64(isa: Isa, family: str) -> None:
    """On a processor model without dot products: one would stop it."""
    NARROW[family](isa)


@emulated.needs_emulator
@pytest.mark.parametrize("isa", emulated.ARM_LEVELS[1:], ids=lambda isa: isa.name)
@pytest.mark.parametrize("family", list(NARROW) if ALL else INTEGERS)
def test_aarch64_dot_products(isa: Isa, family: str) -> None:
    NARROW[family](isa)


@emulated.needs_emulator
def test_the_emulator_stops_at_an_instruction_that_its_processor_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the levels pass on their own processors says something."""
    monkeypatch.setitem(emulated.PROCESSORS, "aarch64+dotprod", emulated.PROCESSORS["aarch64"])
    with pytest.raises(AssertionError, match="exit status -4"):
        NARROW["integer_gemv_int4"](emulated.ARM_LEVELS[1])


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
