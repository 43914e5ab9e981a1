"""Kernels that work row by row: norms, SwiGLU, embedding; against NumPy in float64."""

import numpy as np
import pytest

from tests.artifact.test_packing import FORMATS, weights
from tests.targets.kernels.harness import LEVELS_HERE, SPLIT, assert_close, kernel, normal, rng
from xamc.artifact.packing import WeightFormat, pack_rows, packed_layout
from xamc.targets.kernels.embedding import embedding
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.norm import add_rms_norm, rms_norm
from xamc.targets.kernels.swiglu import silu_mul

levels = pytest.mark.parametrize("isa", [*LEVELS_HERE, SPLIT], ids=lambda isa: isa.name)
EPS = 1e-5
ROWS = (1, 3, 200)
"""One row, few (serial) and many (parallel)."""


def norm(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * w


@levels
@pytest.mark.parametrize("h", [16, 77, 576])
def test_rms_norm(isa: Isa, h: int) -> None:
    run = kernel(rms_norm(h, EPS, isa), isa)
    for m in ROWS:
        g = rng(h, m)
        x, w = normal(g, m, h) * 3, normal(g, h)
        x[0] = 1e-4  # the size of eps matters here
        y = np.zeros_like(x)
        run(x, w, y)
        assert_close(y, norm(x, w), "kernel_elementwise")


@levels
@pytest.mark.parametrize("h", [77, 576])
def test_add_rms_norm(isa: Isa, h: int) -> None:
    run = kernel(add_rms_norm(h, EPS, isa), isa)
    for m in ROWS:
        g = rng(h, m)
        x, residual, w = normal(g, m, h), normal(g, m, h), normal(g, h)
        y, total = np.zeros_like(x), np.zeros_like(x)
        run(x, residual, w, y, total)
        np.testing.assert_array_equal(total, x + residual)
        assert_close(y, norm(total, w), "kernel_elementwise")


@levels
@pytest.mark.parametrize("fused", [True, False])
def test_silu_mul(isa: Isa, fused: bool) -> None:
    width = 333
    run = kernel(silu_mul(width, isa, fused=fused), isa)
    for m in ROWS:
        g = rng(m)
        gate, up = normal(g, m, width) * 10, normal(g, m, width)
        gate[0, :4] = (0, -1e4, 1e4, -88.5)
        y = np.zeros_like(up)
        run(*((np.concatenate((gate, up), 1),) if fused else (gate, up)), y)
        wide = gate.astype(np.float64)
        with np.errstate(over="ignore"):
            expected = wide / (1 + np.exp(-wide)) * up
        assert_close(y, expected, "kernel_elementwise", np.abs(expected) + 1e-6)


@levels
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: f"{fmt.kind}-{fmt.group_size}")
def test_embedding_reads_rows_of_a_packed_weight(isa: Isa, fmt: WeightFormat) -> None:
    v, h = 65, {None: 77, 32: 64, 128: 256}[fmt.group_size]
    stored, extra, w = weights(fmt, v, h)
    packed = pack_rows(stored, fmt, **extra)
    ids = np.concatenate((np.arange(v), [0, 64, 31, 32]))
    y = np.zeros((len(ids), h), np.float32)
    run = kernel(embedding(v, h, fmt, isa), isa)
    run(ids, *(packed[buffer.name] for buffer in packed_layout(v, h, fmt).buffers), y)
    np.testing.assert_array_equal(y, w[ids])
