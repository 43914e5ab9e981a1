"""The KV cache of a model: names of its graph values, bytes of a token, blocks of a sequence."""

from __future__ import annotations

from xamc.model.config import ModelConfig
from xamc.model.dtypes import DTYPE_BYTES

KV_BLOCK = 64
"""Positions of a block of the CPU target's paged KV cache: one tile of the attention kernels, 8 KiB of a head of 64 in
16 bits. Smaller ones would share more of a prefix, and take more look-ups."""


def past_key(layer: int) -> str:
    """Name of the graph value that holds a layer's cached keys, [B, Hkv, P, D]."""
    return f"past_key.{layer}"


def past_value(layer: int) -> str:
    """Name of the graph value that holds a layer's cached values, [B, Hkv, P, D]."""
    return f"past_value.{layer}"


def present_key(layer: int) -> str:
    """Name of the graph output that holds a layer's keys after the step, [B, Hkv, P + S, D]."""
    return f"present_key.{layer}"


def present_value(layer: int) -> str:
    """Name of the graph output that holds a layer's values after the step, [B, Hkv, P + S, D]."""
    return f"present_value.{layer}"


def kv_bytes_per_token(config: ModelConfig, dtype: str) -> int:
    """Bytes of one token's keys and values in all layers; with int8 a float32 scale per head beside them."""
    head = config.head_dim * DTYPE_BYTES[dtype] + (4 if dtype == "int8" else 0)
    return int(2 * config.num_layers * config.num_kv_heads * head)


def resident_blocks(context: int, block: int, window: int | None, chunk: int) -> int:
    """Blocks of the KV cache that one sequence has at once, at most.

    Args:
        context: most positions of the sequence.
        block: positions of a block.
        window: the most positions that any layer attends to (`ModelConfig.window`).
        chunk: most tokens that a step adds.
    """
    width = -(-context // block)
    return width if window is None else min(width, -(-(max(window, block + 1) + chunk) // block) + 1)
