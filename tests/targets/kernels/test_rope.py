"""RoPE and the cache update against NumPy: rows of a wider buffer, ragged positions, capacity, pages, 16 and 8 bits."""

import numpy as np
import pytest

from tests.targets.kernels.harness import LEVELS_HERE, SPLIT, assert_close, kernel, normal, rng
from tests.targets.kernels.pages import block_table, gather, keys_turned, quantize, scatter, storage
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.kv_pages import KvDtype
from xamc.targets.kernels.rope import rope, rope_kv_write

levels = pytest.mark.parametrize("isa", [*LEVELS_HERE, SPLIT], ids=lambda isa: isa.name)
HEADS = [(9, 3, 64), (4, 4, 18)]
POSITIONS, CAPACITY, BLOCK, EPS = 300, 24, 8, 1e-5


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
@pytest.mark.parametrize(
    ("hq", "hkv", "d", "dtype", "norm"),
    [
        (*HEADS[0], "float16", False),
        (*HEADS[0], "float32", True),
        (*HEADS[1], "bfloat16", True),
        (*HEADS[0], "int8", False),
        (*HEADS[1], "int8", True),
    ],
)
def test_rope_kv_write(isa: Isa, hq: int, hkv: int, d: int, dtype: KvDtype, norm: bool) -> None:
    """Rows beyond the table are dropped; nothing else of the pool changes."""
    run = kernel(rope_kv_write(hq, hkv, d, dtype, isa, qk_norm=norm, eps=EPS, block=BLOCK), isa)
    for b, s, index in ((1, 1, (7,)), (2, 6, (0, CAPACITY - 4))):
        g = rng(b)
        qkv, w = normal(g, b, s, (hq + 2 * hkv) * d), normal(g, 2, d)
        positions = g.integers(0, POSITIONS, (b, s))
        qkv[0, 0, hq * d : (hq + 1) * d] = 0  # a key of zeros
        before = normal(g, 2, b, hkv, CAPACITY, d)
        q, k, v = np.split(qkv.reshape(b, s, -1, d).astype(np.float64), (hq, hq + hkv), axis=2)
        if norm:
            q, k = (x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * weight for x, weight in zip((q, k), w))
        q, k = rotate(q, positions), rotate(k, positions)
        codes, scales = quantize(before)
        expected = codes * scales[..., None] if dtype == "int8" else before.astype(storage(dtype)).astype(np.float64)
        for i, first in enumerate(index):
            kept = min(s, CAPACITY - first)
            for cache, new in zip(expected, (k, v)):
                cache[i, :, first : first + kept] = new[i, :kept].transpose(1, 0, 2)
        table, entries = block_table(g, b, CAPACITY, BLOCK)
        initial = [*codes, *scales] if dtype == "int8" else [*before.astype(storage(dtype))]
        pools = keys_turned([scatter(x, table, entries, BLOCK, 9) for x in initial])
        out = np.zeros((b, s, hq * d), np.float32)
        run(qkv, positions, table, np.array(index), *tables(d), *(w if norm else ()), *pools, out)
        assert_close(out, q.reshape(out.shape), "kernel_elementwise")
        unused = np.setdiff1d(np.arange(entries), table)
        assert all((pool[unused].astype(np.float32) == 9).all() for pool in pools)
        actual = [gather(pool, table, CAPACITY) for pool in keys_turned(pools)]
        if dtype == "int8":
            step = actual[2:]
            for cache, scale, want in zip(actual[:2], step, expected):
                assert np.isfinite(scale).all()
                np.testing.assert_allclose(scale, np.abs(want).max(-1) / 127, rtol=1e-5)
                # half a step, and what the fp32 rotation is off where that is near the middle between two codes
                error = np.abs(cache * scale[..., None].astype(np.float64) - want)
                assert (error <= 0.501 * scale[..., None] + 1e-12).all()
        else:
            # A key that lies near a rounding boundary may round the other way: one unit in the last place.
            unit = {"float32": 1e-6, "float16": 2**-10, "bfloat16": 2**-7}[dtype]
            np.testing.assert_allclose(actual[0].astype(np.float64), expected[0], rtol=unit, atol=1e-6)
            rounded = expected[1].astype(storage(dtype)).astype(np.float32)
            np.testing.assert_array_equal(actual[1].astype(np.float32), rounded)


@levels
@pytest.mark.parametrize(("hq", "hkv", "d"), HEADS)
def test_keys_are_cached_without_their_bias(isa: Isa, hq: int, hkv: int, d: int) -> None:
    """A bias of 200 in one channel leaves the codes to what differs between tokens; queries keep theirs."""
    run = kernel(rope_kv_write(hq, hkv, d, "int8", isa, key_bias=True, block=BLOCK), isa)
    g = rng(3)
    rest, bias = normal(g, 1, 6, (hq + 2 * hkv) * d), normal(g, (hq + 2 * hkv) * d)
    bias[hq * d + 5] = 200
    positions = g.integers(0, POSITIONS, (1, 6))
    table, entries = block_table(g, 1, CAPACITY, BLOCK)
    empty = np.zeros((2, 1, hkv, CAPACITY, d), np.int8), np.zeros((2, 1, hkv, CAPACITY), np.float32)
    pools = keys_turned([scatter(x, table, entries, BLOCK, 0) for part in empty for x in part])
    out = np.zeros((1, 6, hq * d), np.float32)
    run(rest + bias, positions, table, np.array([2]), *tables(d), bias, *pools, out)
    whole = (rest + bias).astype(np.float64).reshape(1, 6, -1, d)
    assert_close(out, rotate(whole[:, :, :hq], positions).reshape(out.shape), "kernel_elementwise")
    keys, values, key_scale, value_scale = (gather(pool, table, CAPACITY)[:, :, 2:8] for pool in keys_turned(pools))
    unbiased = rotate(rest.reshape(1, 6, -1, d).astype(np.float64)[:, :, hq : hq + hkv], positions)
    for codes, scale, want in ((keys, key_scale, unbiased), (values, value_scale, whole[:, :, hq + hkv :])):
        want = want.transpose(0, 2, 1, 3)
        # 200 has 2^-16 as its unit in the last place, which subtracting the bias leaves in what the scale follows from
        np.testing.assert_allclose(scale, np.abs(want).max(-1) / 127, rtol=1e-4)
        error = np.abs(codes * scale[..., None].astype(np.float64) - want)
        assert (error <= 0.51 * scale[..., None]).all()
