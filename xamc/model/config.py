"""What the stages hand to each other, as plain data.

This module is also read by the runtime, so it imports nothing but the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

KV_BLOCK = 64
"""Positions of a block of the CPU target's paged KV cache: one tile of the attention kernels, 8 KiB of a head of 64 in
16 bits. Smaller ones would share more of a prefix, and take more look-ups."""

RopeKind = Literal["default", "linear", "dynamic", "llama3"]

DTYPE_BYTES: Mapping[str, float] = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "uint16": 2,
    "int64": 8,
    "int32": 4,
    "int8": 1,
    "uint8": 1,
    "int4": 0.5,
    "uint4": 0.5,
    "bool": 1,
}


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding of a model, as transformers' ``rope_parameters`` name it."""

    kind: RopeKind
    theta: float
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 0


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only language model, normalized over all families.

    `sliding_windows` has one entry per layer: the window's length in tokens, or None for full attention.
    `eos_token_ids` lists every id that ends a generation. `hf_config` is the allow-listed config.json, from
    which the exporter builds the transformers model of class `architecture`.
    """

    model_type: str
    architecture: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope: RopeConfig
    tie_word_embeddings: bool
    qk_norm: bool
    sliding_windows: tuple[int | None, ...]
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    hf_config: Mapping[str, Any]

    @property
    def window(self) -> int | None:
        """The most positions that any layer attends to; None if there is a layer that attends to all."""
        windows = [window for window in self.sliding_windows if window is not None]
        return max(windows) if windows and len(windows) == self.num_layers else None


@dataclass(frozen=True)
class Bucket:
    """One static graph: a phase and its length in tokens.

    A prefill graph takes `length` tokens at once; a decode graph takes one, on top of a past of ``length - 1`` slots.
    """

    kind: Literal["prefill", "decode"]
    length: int

    @property
    def name(self) -> str:
        """As in folder names: ``prefill_1024``."""
        return f"{self.kind}_{self.length}"


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
