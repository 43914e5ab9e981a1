"""The twin: a small model with every structural property of the real one that a rewrite may depend on.

Kept: all config flags, one period of the layer pattern and at least two layers, the ratio of heads to KV heads and
their parities, whether heads times head_dim equals the hidden size, the residues of all widths modulo the
quantization group, of the vocabulary modulo 16, the RoPE kind, which layers share a sliding window. For a model that
is divided among ranks also how its KV heads and its MLP width divide.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from xamc.ir.weights.lazy import ArrayTensor, LazyTensor
from xamc.model.config import ModelConfig
from xamc.model.layer import Layer, Part
from xamc.model.parameters import part_of, size_of
from xamc.model.windows import window_keys

TWIN_POSITIONS = 64
_LONGEST_PATTERN = 8


def twin_config(config: ModelConfig, group: int = 32, tp: int = 1) -> ModelConfig:
    """The config of `config`'s twin.

    Args:
        config: the real model.
        group: quantization group size whose divisibility by the widths is kept; any value without quantization.
        tp: number of ranks that the model is divided among. The twin's KV heads are then padded or replicated as the
            real ones are: fewer than `tp` stay as they are, more have the same residue modulo `tp`. The MLP width
            keeps its residue modulo 16 tp.
    """
    windows = _layer_pattern(config.sliding_windows)
    lengths = sorted({window for window in windows if window is not None})
    # short enough that the twin's prompts run out of every window
    windows = tuple(None if window is None else 3 + lengths.index(window) for window in windows)
    layers = len(windows)
    kv_heads = _kv_heads(config.num_kv_heads, tp)
    heads = config.num_heads // config.num_kv_heads * kv_heads
    real_width = size_of(config, "head")
    head_dim = _head_dim(config.head_dim, heads, real_width, group)
    width = heads * head_dim
    if config.hidden_size == real_width:
        hidden = width
    else:
        # transformers wants hidden_size to be a multiple of the heads for most families
        unit = heads if config.hidden_size % config.num_heads == 0 else 1
        hidden = _same_residue(config.hidden_size, group, at_least=64, avoid={width}, unit=unit)
    mlp_modulus = group if tp == 1 else math.lcm(group, 16 * tp)
    intermediate = _same_residue(config.intermediate_size, mlp_modulus, at_least=hidden + 1, avoid={width})
    vocab = _same_residue(config.vocab_size, 16, at_least=96, avoid={hidden, width, intermediate})
    original = TWIN_POSITIONS // 2 if config.rope.original_max_position_embeddings else 0
    rope = replace(config.rope, original_max_position_embeddings=original)

    small = config.changed(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        vocab_size=vocab,
        max_position_embeddings=TWIN_POSITIONS,
        bos_token_id=None,
        eos_token_ids=(),
    )
    hf = {**small.hf_config, "pad_token_id": None, **window_keys(config.hf_config, windows)}
    if config.hidden_size != real_width or "head_dim" in hf:
        hf["head_dim"] = head_dim
    for key in ("rope_parameters", "rope_scaling"):
        if hf.get(key) and "original_max_position_embeddings" in hf[key]:
            hf[key] = {**hf[key], "original_max_position_embeddings": original}
    return replace(small, head_dim=head_dim, rope=rope, sliding_windows=windows, hf_config=hf)


def _layer_pattern(windows: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """One period of the layers' windows, or their distinct runs when there is no short period; at least two layers."""
    for period in range(1, _LONGEST_PATTERN + 1):
        if all(windows[i] == windows[i % period] for i in range(len(windows))):
            return windows[:period] * (2 if period == 1 else 1)
    runs = [w for i, w in enumerate(windows) if i == 0 or w != windows[i - 1]]
    return tuple(runs)


def _kv_heads(real: int, tp: int) -> int:
    """Few KV heads that are as odd, and divide among `tp` ranks, as `real` ones: one rank has several where it had."""
    if tp == 1:
        return 1 if real == 1 else 2 + real % 2
    return real if real <= 2 * tp else tp + (real % tp or tp)


def _head_dim(real: int, heads: int, real_width: int, group: int) -> int:
    """A small even head width that keeps the residue of heads * head_dim, and its own modulo 16 where both can be."""
    candidates = [*range(16 + real % 16, 16 + real % 16 + group, 16), *range(16, 16 + group, 2)]
    return next((dim for dim in candidates if heads * dim % group == real_width % group), real)


def _same_residue(size: int, modulus: int, at_least: int, avoid: set[int], unit: int = 1) -> int:
    """The smallest number >= at_least that is congruent to `size`, a multiple of `unit`, and no other width.

    Where a multiple of `unit` can't be congruent, it is only a multiple of `unit`.
    """
    first = at_least + (size - at_least) % modulus
    # a multiple of `unit` comes at least every `unit` steps, and may be one to avoid
    for value in range(first, first + modulus * unit * (len(avoid) + 1), modulus):
        if value % unit == 0 and value not in avoid:
            return value
    return -(-first // unit) * unit


def twin_weights(shapes: Mapping[str, tuple[int, ...]], layer: Layer, seed: int = 0) -> dict[str, LazyTensor]:
    """Seeded float32 weights by parameter name, each independent of which others exist.

    Query and key projections are large enough that attention is peaked: with weights near zero it would average over
    all positions, and a wrong mask or a shifted position would hardly show. Norm weights differ from 1 and biases from
    0, so that dropping or swapping them shows as well.
    """
    return {name: ArrayTensor(_twin_weight(name, shape, part_of(layer, name), seed)) for name, shape in shapes.items()}


def _twin_weight(name: str, shape: tuple[int, ...], part: Part | None, seed: int) -> NDArray[np.float32]:
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if len(shape) == 1:
        if name.endswith(".bias"):
            return random.normal(0.0, 0.3, shape).astype(np.float32)
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    role = part.role if part is not None else None
    if role == "embedding":
        return random.standard_normal(shape).astype(np.float32)
    gain = 2.0 if role in ("query", "key") else 1.0
    weight: NDArray[np.float32] = random.normal(0.0, gain / math.sqrt(shape[-1]), shape).astype(np.float32)
    return weight
