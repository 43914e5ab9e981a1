"""Rotary position embedding (RoPE) tables, built in NumPy by transformers' rules.

The exported graph takes cos and sin as inputs, so one module serves every phase, rank and target. The arithmetic
repeats `transformers.modeling_rope_utils` and `LlamaRotaryEmbedding` in the same order of operations and in fp32:
at position 200,000 an fp64 table differs by more than a percent from what the model was trained with. Powers are
evaluated in fp64 and rounded once, which makes them independent of the host's vector library and at most one unit
in the last place away from torch's.

References: Su et al. 2021 (RoPE); bloc97 2023 (dynamic NTK); Meta's Llama 3.1 release (`llama3` scaling).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from xamc.errors import UnsupportedError
from xamc.model.config import ModelConfig, RopeConfig

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

ATTENTION_SCALING = 1.0
"""The factor transformers applies to cos and sin: 1 for every kind supported here (only yarn and longrope differ)."""


def _power(base: float | np.float32, exponent: F32) -> F32:
    return np.power(np.float64(np.float32(base)), exponent.astype(np.float64)).astype(np.float32)


def _plain(base: float | np.float32, head_dim: int) -> F32:
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return np.float32(1) / _power(base, exponent)


def _dynamic_base(
    rope: RopeConfig, head_dim: int, max_position_embeddings: int, length: int | None
) -> float | np.float32:
    exponent = head_dim / (head_dim - 2)
    if length is None or length <= max_position_embeddings:
        ratio = rope.factor * max_position_embeddings / max_position_embeddings
        return float(rope.theta * (ratio - (rope.factor - 1)) ** exponent)
    # transformers passes the length as a tensor here, which turns every following operation into fp32.
    grown = np.float32(rope.factor) * np.float32(length) / np.float32(max_position_embeddings)
    stretch = grown - np.float32(rope.factor - 1)
    return np.float32(rope.theta) * np.float32(np.float64(stretch) ** exponent)


def _llama3(rope: RopeConfig, frequencies: F32) -> F32:
    old_length = rope.original_max_position_embeddings
    wavelength = np.float32(2 * math.pi) / frequencies
    is_long = wavelength > np.float32(old_length / rope.low_freq_factor)
    is_short = wavelength < np.float32(old_length / rope.high_freq_factor)
    factor = np.float32(rope.factor)
    scaled = np.where(is_long, frequencies / factor, frequencies)
    smooth = (np.float32(old_length) / wavelength - np.float32(rope.low_freq_factor)) / np.float32(
        rope.high_freq_factor - rope.low_freq_factor
    )
    blended = (np.float32(1) - smooth) * scaled / factor + smooth * scaled
    return np.where(~is_short & ~is_long, blended, scaled)


def inverse_frequencies(
    rope: RopeConfig, head_dim: int, max_position_embeddings: int, length_reached: int | None = None
) -> F32:
    """Angular frequency of each rotated pair, in radians per position.

    Args:
        rope: the model's rotary embedding.
        head_dim: width D of one attention head; must be even.
        max_position_embeddings: the length the model was trained for; only `dynamic` reads it.
        length_reached: tokens seen so far (largest position + 1); only `dynamic` reads it, and only once it exceeds
            `max_position_embeddings`. None stands for a short sequence.

    Returns:
        float32[D/2].

    Raises:
        UnsupportedError: E1601, a kind other than default, linear, dynamic and llama3.
    """
    if rope.kind == "default":
        return _plain(rope.theta, head_dim)
    if rope.kind == "linear":
        return _plain(rope.theta, head_dim) / np.float32(rope.factor)
    if rope.kind == "dynamic":
        return _plain(_dynamic_base(rope, head_dim, max_position_embeddings, length_reached), head_dim)
    if rope.kind == "llama3":
        return _llama3(rope, _plain(rope.theta, head_dim))
    raise UnsupportedError(
        "E1601",
        f"RoPE kind {rope.kind!r} is not supported",
        "use a model whose rope_parameters.rope_type is default, linear, dynamic or llama3",
    )


def cos_sin(frequencies: F32, positions: NDArray[np.int64]) -> tuple[F32, F32]:
    """Cosine and sine of every position's angles.

    Args:
        frequencies: float32[D/2] from `inverse_frequencies`.
        positions: int64[R].

    Returns:
        (cos, sin), each float32[R, D/2].
    """
    angles = positions.astype(np.float32)[:, None] * frequencies[None, :]
    # ATTENTION_SCALING is 1 and left out: multiplying by it would only cost time.
    return np.cos(angles), np.sin(angles)


def rope_table(config: ModelConfig, rows: int, length_reached: int | None = None) -> tuple[F32, F32]:
    """The table of positions 0 to rows - 1, the graph inputs `rope_cos` and `rope_sin`.

    Args:
        config: the model.
        rows: number of positions R.
        length_reached: see `inverse_frequencies`.

    Returns:
        (cos, sin), each float32[R, D/2].
    """
    frequencies = inverse_frequencies(config.rope, config.head_dim, config.max_position_embeddings, length_reached)
    return cos_sin(frequencies, np.arange(rows, dtype=np.int64))


class LengthReached:
    """The length that fixes the base of a dynamic RoPE, updated as transformers' `dynamic_rope_update` does.

    The base grows with every new maximum beyond `max_position_embeddings`, is kept while a shorter sequence stays at
    or above that limit, and is reset once a sequence is shorter than it. Keys already in the cache keep the base they
    were rotated with. Other kinds of RoPE ignore the value.
    """

    def __init__(self, max_position_embeddings: int) -> None:
        self._limit = max_position_embeddings
        self._reached = max_position_embeddings

    def advance(self, length: int) -> int:
        """Registers a step whose largest position is `length - 1`; returns the length that fixes the base."""
        cached = self._reached
        if length > cached:
            self._reached = length
        if length < self._limit < cached:
            self._reached = self._limit
        return self._reached
