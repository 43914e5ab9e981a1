"""Linear kernels on integers, against a NumPy model of the rounding, over odd shapes, weight formats and levels."""

from dataclasses import replace

import numpy as np
import pytest

from tests.artifact.test_packing import weights
from tests.targets.kernels.harness import LEVELS_HERE, SPLIT, WIDE, assembly, assert_close, kernel, normal, rng
from tests.targets.kernels.test_linear import N, name
from xamc.artifact.packing import WeightFormat, pack_rows, packed_layout
from xamc.ir.tolerances import tolerance
from xamc.targets.kernels.integer_dot import IntegerActivations, IntegerDot
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.linear import linear

FORMATS = [
    WeightFormat("uint4", 32),
    WeightFormat("uint4", 128),
    WeightFormat("int8"),
    WeightFormat("int8", 32),
    WeightFormat("int8", 128),
]
VNNI = replace(LEVELS_HERE[-1], emulate_vnni=True)
"""The algorithm of levels with VNNI, its instruction in plain ones."""


def columns(fmt: WeightFormat) -> int:
    """Two blocks along K, the second one partial; with one scale per row, a last group of 13."""
    return {None: 333, 32: 352, 128: 384}[fmt.group_size]


def rounded(x: np.ndarray, group: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Activations rounded to integers in groups, in float64, and the step of those that float32 may round otherwise."""
    out, steps = np.empty(x.shape), np.empty(x.shape)
    for start in range(0, x.shape[1], group):
        part = x[:, start : start + group]
        step = np.abs(part).max(axis=1, keepdims=True).astype(np.float64) / levels
        codes = part / np.where(step == 0, 1, step)
        out[:, start : start + group] = np.rint(codes) * step
        near_tie = np.abs(np.abs(codes - np.floor(codes)) - 0.5) < 2**-22 * levels
        steps[:, start : start + group] = step * near_tie
    return out, steps


def check(
    fmt: WeightFormat,
    isa: Isa,
    n: int,
    m: str,
    rows: tuple[int, ...],
    extras: bool,
    activations: IntegerActivations = "int8",
) -> None:
    k = columns(fmt)
    stored, scales, w = weights(fmt, n, k)
    packed = pack_rows(stored, fmt, **scales)
    buffers = [packed[buffer.name] for buffer in packed_layout(n, k, fmt).buffers]
    run = kernel(linear(n, k, fmt, isa, m=m, bias=extras, residual=extras, activations=activations), isa)  # type: ignore[arg-type]
    dot = IntegerDot.of(fmt, isa, activations)
    for count in rows:
        g = rng(count)
        x, bias, residual = normal(g, count, k), normal(g, n), normal(g, count, n)
        x[0, :32] = 0  # a group without a scale
        x *= np.exp(3 * normal(g, count, k // 32 + 1).repeat(32, axis=1)[:, :k])  # groups of all sizes
        y = np.full((count, n), np.nan, np.float32)
        run(x, *buffers, *((bias, residual) if extras else ()), y)
        near, steps = rounded(x, dot.group, dot.levels)
        expected = near @ w.T + (bias + residual if extras else 0)
        ties = steps @ np.abs(w).T / tolerance("kernel_sums")
        assert_close(y, expected, "kernel_sums", np.abs(x) @ np.abs(w).T + 1 + ties)


@pytest.mark.parametrize(
    "isa", [*LEVELS_HERE, VNNI], ids=lambda isa: f"{isa.name}{'-vnni' if isa.emulate_vnni else ''}"
)
@pytest.mark.parametrize("fmt", FORMATS, ids=name)
def test_one_row(fmt: WeightFormat, isa: Isa) -> None:
    check(fmt, isa, N, "one", (1,), extras=True)


@pytest.mark.parametrize(
    "isa", [*LEVELS_HERE, VNNI], ids=lambda isa: f"{isa.name}{'-vnni' if isa.emulate_vnni else ''}"
)
@pytest.mark.parametrize("fmt", [FORMATS[0], FORMATS[2], FORMATS[4]], ids=name)
def test_any_rows(fmt: WeightFormat, isa: Isa) -> None:
    """Up to 32 rows are streamed, some at a time; 249 are two row blocks, the last tiles partial."""
    check(fmt, isa, N, "any", (1, 2, 3, 9, 32, 33, 249), extras=True)


@pytest.mark.parametrize("isa", [LEVELS_HERE[-1], VNNI], ids=lambda isa: "vnni" if isa.emulate_vnni else "here")
@pytest.mark.parametrize("fmt", FORMATS[2:], ids=name)
def test_activations_of_16_bits(fmt: WeightFormat, isa: Isa) -> None:
    """The same for 8-bit weights on every level, with an instruction of its own where there is VNNI."""
    check(fmt, isa, N, "one", (1,), True, "int16")
    check(fmt, isa, N, "any", (3, 16, 33, 249), True, "int16")
    assert IntegerDot.of(fmt, isa, "int16").levels == 32767


@pytest.mark.parametrize("fmt", FORMATS[:3:2], ids=name)
def test_wide_vectors_and_tall_tiles(fmt: WeightFormat) -> None:
    check(fmt, SPLIT, N, "one", (1,), extras=True)
    check(fmt, SPLIT, N, "any", (1, 3, 239, 480), extras=True)


@pytest.mark.parametrize("fmt", [FORMATS[1], FORMATS[3]], ids=name)
def test_whole_panels_without_bias(fmt: WeightFormat) -> None:
    check(fmt, LEVELS_HERE[-1], 64, "any", (4, 21, 37), extras=False)
    check(fmt, LEVELS_HERE[-1], 64, "one", (1,), extras=False)


@pytest.mark.parametrize("fmt", FORMATS[:3:2], ids=name)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_reaches_the_result(fmt: WeightFormat, value: float) -> None:
    k = columns(fmt)
    stored, scales, _ = weights(fmt, 64, k)
    packed = pack_rows(stored, fmt, **scales)
    x, y = normal(rng(1), 1, k), np.zeros((1, 64), np.float32)
    x[0, 40] = value
    isa = LEVELS_HERE[-1]
    run = kernel(linear(64, k, fmt, isa, m="one", activations="int8"), isa)
    run(x, *(packed[buffer.name] for buffer in packed_layout(64, k, fmt).buffers), y)
    assert not np.isfinite(y).any()


def test_the_largest_values_do_not_overflow() -> None:
    """All weights and activations at the ends of their ranges."""
    k, n = 256, 32
    for fmt, codes in ((WeightFormat("uint4", 32), (15,)), (WeightFormat("int8"), (-128, 127))):
        forms = [("one", isa) for isa in (*LEVELS_HERE, VNNI)] + [("any", LEVELS_HERE[-1])]
        for m, isa in forms:
            run = kernel(linear(n, k, fmt, isa, m=m, activations="int8"), isa)  # type: ignore[arg-type]
            for code in codes:
                stored = np.full((n, k), code, np.uint8 if fmt.kind == "uint4" else np.int8)
                scales = {"scale": np.ones((n, fmt.groups(k)), np.float16)}
                if fmt.kind == "uint4":
                    scales["zero"] = np.zeros((n, fmt.groups(k)), np.float16)
                packed = pack_rows(stored, fmt, **scales)
                buffers = [packed[buffer.name] for buffer in packed_layout(n, k, fmt).buffers]
                for count in (1,) if m == "one" else (2, 7):
                    x, y = np.full((count, k), -1, np.float32), np.zeros((count, n), np.float32)
                    run(x, *buffers, y)
                    assert np.allclose(y, -code * k, rtol=1e-6), (fmt, isa.name, m, count)


@pytest.mark.parametrize("m", ["one", "any"])
@pytest.mark.parametrize("fmt", FORMATS[:3:2], ids=name)
def test_wide_levels_use_their_instruction(fmt: WeightFormat, m: str) -> None:
    for isa, word in ((WIDE[0], "vpmaddubsw" if fmt.kind == "uint4" else "vpmaddwd"), (WIDE[1], "vpdpbusd")):
        text = assembly(linear(64, 256, fmt, isa, m=m, activations="int8"), isa)  # type: ignore[arg-type]
        lines = [line for line in text.splitlines() if f"{word}\t" in line]
        assert sum("%zmm" in line for line in lines) >= 4, isa.name
    if fmt.kind == "int8":
        text = assembly(linear(64, 256, fmt, WIDE[1], m=m, activations="int16"), WIDE[1])  # type: ignore[arg-type]
        lines = [line for line in text.splitlines() if "vpdpwssd\t" in line]
        assert sum("%zmm" in line for line in lines) >= 4
        assert not any("%ymm" in line for line in lines), isa.name
        # LLVM takes it apart again where it is not told that the instruction is fast
        assert not any("vpmaddwd\t" in line for line in text.splitlines()), isa.name
