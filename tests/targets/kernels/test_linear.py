"""Linear kernels against NumPy in float64, over odd shapes, every weight format and every level."""

import math
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from tests.artifact.test_packing import FORMATS, weights
from tests.targets.kernels.harness import LEVELS_HERE, SPLIT, WIDE, assembly, assert_close, kernel, module, normal, rng
from xamc.artifact.packing import WeightFormat, pack_rows, packed_layout
from xamc.targets.kernels.gemm import block_rows
from xamc.targets.kernels.gemv import SERIAL_BYTES
from xamc.targets.kernels.isa import LEVELS, Isa
from xamc.targets.kernels.linear import Activations, linear
from xamc.targets.kernels.microkernel import row_tiles

N = 50
"""Neither a multiple of the panel nor of a vector."""
BF16 = WIDE[-1]


def columns(fmt: WeightFormat) -> int:
    """Two blocks along K, the second one partial; odd where the format allows it."""
    return {None: 333, 32: 320, 128: 384}[fmt.group_size]


def name(value: object) -> str:
    if isinstance(value, WeightFormat):
        return f"{value.kind}-{value.group_size or 'row'}"
    return value.name if isinstance(value, Isa) else str(value)


def check(fmt: WeightFormat, isa: Isa, n: int, m: str, rows: tuple[int, ...], extras: bool) -> None:
    k = columns(fmt)
    stored, scales, w = weights(fmt, n, k)
    packed = pack_rows(stored, fmt, **scales)
    buffers = [packed[buffer.name] for buffer in packed_layout(n, k, fmt).buffers]
    run = kernel(linear(n, k, fmt, isa, m=m, bias=extras, residual=extras), isa)  # type: ignore[arg-type]
    for count in rows:
        g = rng(count)
        x, bias, residual = normal(g, count, k), normal(g, n), normal(g, count, n)
        y = np.full((count, n), np.nan, np.float32)
        run(x, *buffers, *((bias, residual) if extras else ()), y)
        expected = x.astype(np.float64) @ w.T
        if extras:
            expected += bias + residual
        assert_close(y, expected, "kernel_sums", np.abs(x) @ np.abs(w).T + 1)


@pytest.mark.parametrize("isa", [*LEVELS_HERE, SPLIT], ids=name)
@pytest.mark.parametrize("fmt", FORMATS, ids=name)
def test_one_row(fmt: WeightFormat, isa: Isa) -> None:
    check(fmt, isa, N, "one", (1,), extras=True)


@pytest.mark.parametrize("isa", LEVELS_HERE, ids=name)
@pytest.mark.parametrize("fmt", [FORMATS[1], *FORMATS[3:6]], ids=name)
def test_any_rows(fmt: WeightFormat, isa: Isa) -> None:
    """Up to 32 rows are streamed; 249 are two row blocks, the last tiles partial."""
    check(fmt, isa, N, "any", (1, 2, 3, 9, 32, 33, 249), extras=True)


@pytest.mark.parametrize("fmt", [FORMATS[0], FORMATS[2], FORMATS[6]], ids=name)
def test_whole_panels_without_bias(fmt: WeightFormat) -> None:
    check(fmt, LEVELS_HERE[-1], 64, "any", (4, 21, 37), extras=False)
    check(fmt, LEVELS_HERE[-1], 64, "one", (1,), extras=False)


def test_blocks_of_rows_are_whole_tiles() -> None:
    """Tiles of 14 rows, as with 32 registers, don't divide the 240 rows that a block would have with tiles of 6."""
    check(WeightFormat("float16"), SPLIT, N, "any", (1, 3, 239, 480), extras=True)
    for isa in LEVELS.values():
        most, tallest = block_rows(isa), row_tiles(isa)[0]
        assert most % tallest == 0 and most <= 240
        for m in range(1, 3 * most):
            height = math.ceil(m / math.ceil(m / most))
            assert math.ceil(height / tallest) * tallest <= most, "a block's sums have a place for each row"


def check_gate(fmt: WeightFormat, isa: Isa, activations: Activations, rows: tuple[int, ...]) -> None:
    """Few rows are gated panel by panel, blocks of rows by their task; integers against the plain layer's sums."""
    n, k = 128, columns(fmt)
    stored, scales, w = weights(fmt, n, k)
    packed = pack_rows(stored, fmt, **scales)
    buffers = [packed[buffer.name] for buffer in packed_layout(n, k, fmt).buffers]
    run = kernel(linear(n, k, fmt, isa, m="any", gate=True, activations=activations), isa)
    one = kernel(linear(n, k, fmt, isa, m="one", gate=True, activations=activations), isa)
    plain = kernel(linear(n, k, fmt, isa, m="any", activations=activations), isa)
    for count in (*rows, 1):
        x = normal(rng(count), count, k)
        y, sums = np.full((count, n // 2), np.nan, np.float32), np.zeros((count, n), np.float32)
        (one if count == 1 else run)(x, *buffers, y)
        plain(x, *buffers, sums)
        exact = activations == "float32" or not fmt.quantized
        both = x.astype(np.float64) @ w.T if exact else sums.astype(np.float64)
        gate, up = both[:, : n // 2], both[:, n // 2 :]
        silu = gate / (1 + np.exp(-gate))
        magnitude = np.abs(x) @ np.abs(w).T + 1
        bound = 1.1 * magnitude[:, : n // 2] * np.abs(up) + np.abs(silu) * magnitude[:, n // 2 :]
        assert_close(y, silu * up, "kernel_sums", bound + 1)


@pytest.mark.parametrize("activations", ["float32", "int8"])
@pytest.mark.parametrize("fmt", [FORMATS[1], FORMATS[3], FORMATS[5]], ids=name)
def test_gate(fmt: WeightFormat, activations: Activations) -> None:
    check_gate(fmt, LEVELS_HERE[-1], activations, (1, 3, 9, 249))


def test_many_panels_share_the_work() -> None:
    """Enough weights that both kernels run in parallel."""
    check(WeightFormat("int8"), LEVELS_HERE[-1], 32 * 9, "one", (1,), extras=False)


@pytest.mark.parametrize("fmt", [FORMATS[1], FORMATS[2], FORMATS[3], FORMATS[5]], ids=name)
@pytest.mark.parametrize("panels", [9, 10, 13])
def test_two_panels_of_a_share_at_a_time(fmt: WeightFormat, panels: int) -> None:
    """Enough weights for a launch; where a thread's panels are an odd number, its last one stands alone."""
    n = 32 * panels - 3
    assert packed_layout(n, columns(fmt), fmt).nbytes > SERIAL_BYTES
    check(fmt, LEVELS_HERE[-1], n, "one", (1,), extras=True)


@pytest.mark.parametrize("fmt", [FORMATS[0], FORMATS[1], FORMATS[2], FORMATS[4], FORMATS[5]], ids=name)
def test_bf16_dot_product(fmt: WeightFormat) -> None:
    """The algorithm of the bf16 level with plain instructions: both operands are rounded to bfloat16."""
    isa = replace(LEVELS_HERE[-1], emulate_bf16_dot=True)
    k = columns(fmt)
    stored, scales, w = weights(fmt, N, k)
    packed = pack_rows(stored, fmt, **scales)
    x, y = normal(rng(1), 9, k), np.zeros((9, N), np.float32)
    run = kernel(linear(N, k, fmt, isa, m="any", activations="bfloat16"), isa)
    run(x, *(packed[buffer.name] for buffer in packed_layout(N, k, fmt).buffers), y)
    x, w = (a.astype(ml_dtypes.bfloat16).astype(np.float64) for a in (x, w))
    assert_close(y, x @ w.T, "kernel_sums", np.abs(x) @ np.abs(w).T)


def test_bf16_level_uses_its_instruction_where_that_is_asked_for() -> None:
    fmt = WeightFormat("uint4", 32)
    rounded = assembly(linear(64, 64, fmt, BF16, m="any", activations="bfloat16"), BF16)
    assert rounded.count("vdpbf16ps\t%zmm") >= 28, "the tile is 14 rows of two vectors"
    assert "vdpbf16ps" not in assembly(linear(64, 64, fmt, BF16, m="any"), BF16)


def test_several_bf16_kernels_link_into_one_module() -> None:
    functions = {
        f"f{n}": linear(n, 32, WeightFormat("bfloat16"), BF16, m="any", activations="bfloat16") for n in (32, 64)
    }
    module({key: value.with_attr("global_symbol", key) for key, value in functions.items()}, BF16)


@pytest.mark.parametrize("isa", WIDE[:1], ids=name)
@pytest.mark.parametrize("m", ["one", "any"])
def test_wide_levels_multiply_in_512_bits(isa: Isa, m: str) -> None:
    text = assembly(linear(64, 64, WeightFormat("float16"), isa, m=m), isa)  # type: ignore[arg-type]
    fused = [line for line in text.splitlines() if "vfmadd" in line]
    assert sum("%zmm" in line for line in fused) >= 4
    assert not any("%ymm" in line for line in fused), "no loop was split into narrower vectors"
    assert "vcvtph2ps" in text
