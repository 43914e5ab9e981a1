"""Contiguous caches as pools of blocks in random order, written independently of the package."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from xamc.targets.kernels.kv_pages import KvDtype


def storage(dtype: KvDtype) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def block_table(generator: np.random.Generator, batch: int, capacity: int, block: int) -> tuple[np.ndarray, int]:
    """(int32 [B, M] of distinct entries in random order, size of the pool, of which some entries stay unused)."""
    wide = -(-capacity // block)
    entries = batch * wide + 3
    return generator.permutation(entries)[: batch * wide].reshape(batch, wide).astype(np.int32), entries


def scatter(cache: np.ndarray, table: np.ndarray, entries: int, block: int, fill: float = np.nan) -> np.ndarray:
    """[B, H, C, ...] as a pool [N, H, block, ...]; what belongs to no position is `fill`."""
    batch, heads, capacity = cache.shape[:3]
    pool = np.full((entries, heads, block, *cache.shape[3:]), fill).astype(cache.dtype)
    for i in range(batch):
        for t in range(capacity):
            pool[table[i, t // block], :, t % block] = cache[i, :, t]
    return pool


def keys_turned(pools: list[np.ndarray]) -> list[np.ndarray]:
    """The pools with the last two axes of the first, the keys, exchanged."""
    return [np.ascontiguousarray(pools[0].swapaxes(2, 3)), *pools[1:]]


def gather(pool: np.ndarray, table: np.ndarray, capacity: int) -> np.ndarray:
    """The inverse of `scatter`."""
    block = pool.shape[2]
    rows = [np.stack([pool[row[t // block], :, t % block] for t in range(capacity)], axis=1) for row in table]
    return np.stack(rows)


def quantize(cache: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 codes [..., D] and their float32 scales [...]."""
    scale = np.abs(cache).max(-1).astype(np.float32) / np.float32(127)
    codes = np.rint(cache / np.where(scale > 0, scale, 1)[..., None])
    return codes.astype(np.int8), scale


def paged_cache(
    generator: np.random.Generator, exact: list[np.ndarray], dtype: KvDtype, block: int
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Keys and values [B, H, C, D] as they are stored, the pools that hold them, and the block table."""
    table, entries = block_table(generator, exact[0].shape[0], exact[0].shape[2], block)
    if dtype != "int8":
        stored = [c.astype(storage(dtype)) for c in exact]
        return stored, keys_turned([scatter(c, table, entries, block) for c in stored]), table
    codes, scales = zip(*map(quantize, exact), strict=True)
    pools = keys_turned([scatter(c, table, entries, block, 0) for c in codes])
    pools += [scatter(s, table, entries, block) for s in scales]
    return [c.astype(np.float64) * s[..., None] for c, s in zip(codes, scales, strict=True)], pools, table
