"""RoPE and the cache update against NumPy: rows of a wider buffer, ragged positions, capacity, 16-bit caches."""

import ml_dtypes
import numpy as np
import pytest

from tests.targets.kernels.harness import LEVELS_HERE, assert_close, kernel, normal, rng
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.rope import KvDtype, kv_write, rope, rope_kv_write

levels = pytest.mark.parametrize("isa", LEVELS_HERE, ids=lambda isa: isa.name)
HEADS = [(9, 3, 64), (4, 4, 18)]
POSITIONS, CAPACITY, EPS = 300, 24, 1e-5


def storage(dtype: KvDtype) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def tables(d: int) -> tuple[np.ndarray, np.ndarray]:
    angles = np.arange(POSITIONS)[:, None] / 100.0 ** (np.arange(d // 2) / (d // 2))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """x [B, S, H, D] as complex numbers turned by the position's angles."""
    cos, sin = (table[positions][:, :, None].astype(np.float64) for table in tables(x.shape[-1]))
    half = x.shape[-1] // 2
    turned = (x[..., :half] + 1j * x[..., half:]) * (cos + 1j * sin)
    return np.concatenate((turned.real, turned.imag), -1)


@levels
@pytest.mark.parametrize(("hq", "hkv", "d"), HEADS)
def test_rope_reads_heads_out_of_wider_rows(isa: Isa, hq: int, hkv: int, d: int) -> None:
    run = kernel(rope(hkv, d, isa, width=(hq + 2 * hkv) * d, offset=hq * d), isa)
    for b, s in ((1, 1), (2, 7)):
        x = normal(rng(b), b, s, (hq + 2 * hkv) * d)
        positions = rng(s).integers(0, POSITIONS, (b, s))
        y = np.zeros((b, s, hkv * d), np.float32)
        run(x, positions, *tables(d), y)
        keys = x.reshape(b, s, -1, d)[:, :, hq : hq + hkv]
        assert_close(y, rotate(keys, positions).reshape(y.shape), "kernel_elementwise")


@levels
@pytest.mark.parametrize("heads_first", [True, False])
def test_kv_write_scatters_along_the_sequence_and_drops_what_lies_beyond_the_capacity(
    isa: Isa, heads_first: bool
) -> None:
    hkv, d = 3, 20
    run = kernel(kv_write(hkv, d, "bfloat16", isa, heads_first=heads_first), isa)
    for s, index in ((1, (5, 0)), (6, (0, CAPACITY - 4))):
        new = normal(rng(s), 2, s, hkv, d)
        cache = normal(rng(9), 2, hkv, CAPACITY, d).astype(storage("bfloat16"))
        expected = cache.copy()
        for i, first in enumerate(index):
            kept = min(s, CAPACITY - first)
            expected[i, :, first : first + kept] = new[i, :kept].transpose(1, 0, 2).astype(cache.dtype)
        update = np.ascontiguousarray(new.transpose(0, 2, 1, 3)) if heads_first else new.reshape(2, s, hkv * d)
        run(update, np.array(index), cache)
        np.testing.assert_array_equal(cache.view(np.uint16), expected.view(np.uint16))


@levels
@pytest.mark.parametrize(
    ("hq", "hkv", "d", "dtype", "norm"),
    [(*HEADS[0], "float16", False), (*HEADS[0], "float32", True), (*HEADS[1], "bfloat16", True)],
)
def test_rope_kv_write(isa: Isa, hq: int, hkv: int, d: int, dtype: KvDtype, norm: bool) -> None:
    run = kernel(rope_kv_write(hq, hkv, d, dtype, isa, qk_norm=norm, eps=EPS), isa)
    for b, s, index in ((1, 1, (7,)), (2, 6, (0, CAPACITY - 4))):
        g = rng(b)
        qkv, w = normal(g, b, s, (hq + 2 * hkv) * d), normal(g, 2, d)
        positions = g.integers(0, POSITIONS, (b, s))
        caches = normal(g, 2, b, hkv, CAPACITY, d).astype(storage(dtype))
        q, k, v = np.split(qkv.reshape(b, s, -1, d).astype(np.float64), (hq, hq + hkv), axis=2)
        if norm:
            q, k = (x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * weight for x, weight in zip((q, k), w))
        q, k = rotate(q, positions), rotate(k, positions)
        expected = caches.astype(np.float64)
        for i, first in enumerate(index):
            kept = min(s, CAPACITY - first)
            for cache, new in zip(expected, (k, v)):
                cache[i, :, first : first + kept] = new[i, :kept].transpose(1, 0, 2)
        out = np.zeros((b, s, hq * d), np.float32)
        actual = caches[0].copy(), caches[1].copy()
        run(qkv, positions, np.array(index), *tables(d), *(w if norm else ()), *actual, out)
        assert_close(out, q.reshape(out.shape), "kernel_elementwise")
        # A key that lies near a rounding boundary may round the other way: one unit in the last place.
        unit = {"float32": 1e-6, "float16": 2**-10, "bfloat16": 2**-7}[dtype]
        np.testing.assert_allclose(actual[0].astype(np.float64), expected[0], rtol=unit, atol=1e-6)
        np.testing.assert_array_equal(actual[1].astype(np.float32), expected[1].astype(caches.dtype).astype(np.float32))
