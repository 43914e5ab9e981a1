"""The rotary embedding of a GGUF file.

llama.cpp writes Llama 3's scaling not as parameters but as the tensor ``rope_freqs.weight``, one divisor per
frequency. The parameters of the published models are recognized by the divisors they produce.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from xamc.compiler.contract import RopeConfig
from xamc.compiler.errors import InputError
from xamc.compiler.frontends.configuration import ConfigReader
from xamc.compiler.weights.lazy import LazyTensor

# (factor, low_freq_factor, high_freq_factor, original_max_position_embeddings) of Llama 3.1 and 3.3, and of 3.2.
PUBLISHED_LLAMA3 = ((8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192))


def read_gguf_rope(reader: ConfigReader, prefix: str, divisors: LazyTensor | None, head_dim: int) -> RopeConfig:
    """Rotary embedding from the keys ``<prefix>rope.*`` and the tensor ``rope_freqs.weight``, if there is one.

    Raises:
        InputError: E1104, E1122, mistyped values or a tensor of the wrong size.
        InputError: E1106, another scaling.
    """
    theta = reader.number(prefix + "rope.freq_base", 10000.0)
    kind = reader.values.get(prefix + "rope.scaling.type", "none")
    if divisors is not None:
        if divisors.shape != (head_dim // 2,):
            raise InputError(
                "E1122",
                f"rope_freqs.weight in {reader.source}: expected [{head_dim // 2}], found {list(divisors.shape)}",
                "convert the model again",
            )
        return _from_divisors(reader, theta, divisors.read_rows(0, head_dim // 2).astype(np.float32), head_dim)
    if kind == "none":
        return RopeConfig("default", theta)
    if kind == "linear":
        return RopeConfig("linear", theta, factor=reader.number(prefix + "rope.scaling.factor"))
    raise InputError(
        "E1106",
        f"{reader.source}: rotary embedding type {kind!r} is not supported in GGUF",
        "supported are none, linear and Llama 3's; the original safetensors checkpoint may say more",
    )


def _from_divisors(reader: ConfigReader, theta: float, found: NDArray[np.float32], head_dim: int) -> RopeConfig:
    if np.all(found == 1):
        return RopeConfig("default", theta)
    for factor, low, high, original in PUBLISHED_LLAMA3:
        if np.allclose(found, llama3_divisors(theta, head_dim, factor, low, high, original), rtol=1e-4, atol=0):
            return RopeConfig("llama3", theta, factor, low, high, original)
    raise InputError(
        "E1106",
        f"{reader.source}: rope_freqs.weight belongs to none of the published Llama 3 scalings",
        "use the original safetensors checkpoint, whose config.json names the scaling",
    )


def llama3_divisors(
    theta: float, head_dim: int, factor: float, low: float, high: float, original: int
) -> NDArray[np.float64]:
    """What Llama 3's scaling divides each inverse frequency by, [head_dim / 2] (transformers' modeling_rope_utils)."""
    frequency = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    turns = original * frequency / (2 * math.pi)  # rotations within the original context
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    divisors: NDArray[np.float64] = 1 / ((1 - smooth) / factor + smooth)
    return divisors
