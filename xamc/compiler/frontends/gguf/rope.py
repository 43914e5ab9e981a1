"""The rotary embedding of a GGUF file, by llama.cpp's rules (``load_hparams`` and ``llama_context``).

A factor needs no type: without one the scaling is linear. Llama 3's scaling is stored not as parameters but as the
tensor ``rope_freqs.weight``, one divisor per frequency, which a linear factor would divide once more. Its parameters
are recognized by the divisors that they produce.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from xamc.compiler.frontends.config_reader import ConfigReader
from xamc.errors import InputError
from xamc.ir.weights.lazy import LazyTensor
from xamc.model.config import RopeConfig

ROPE_DIVISORS = "rope_freqs.weight"
# llama.cpp's converter knows low_freq_factor 1 and high_freq_factor 4 unless config.json says otherwise, as none of
# the published Llama 3.1 to 3.3 does; the length trained for is 8192 there, and another power of two elsewhere.
_LOW, _HIGH = 1.0, 4.0
_PUBLISHED_FACTORS = (8.0, 32.0)
_ORIGINALS = (8192, *(2**n for n in range(4, 21) if n != 13))


def read_gguf_rope(reader: ConfigReader, prefix: str, divisors: LazyTensor | None, head_dim: int) -> RopeConfig:
    """Rotary embedding from the keys ``<prefix>rope.*`` and the tensor ``rope_freqs.weight``, if there is one.

    Raises:
        InputError: E1104, E1122, mistyped values or a tensor of the wrong size.
        InputError: E1106, another scaling, or two that are not one together.
    """
    theta = reader.number(prefix + "rope.freq_base", 10000.0)
    factor = _factor(reader, prefix)
    if divisors is None:
        return _linear(theta, factor)
    if divisors.shape != (head_dim // 2,):
        raise InputError(
            "E1122",
            f"rope_freqs.weight in {reader.source}: expected [{head_dim // 2}], found {list(divisors.shape)}",
            "convert the model again with a current llama.cpp",
        )
    return _from_divisors(reader, theta, divisors.read_rows(0, head_dim // 2).astype(np.float32), factor)


def _factor(reader: ConfigReader, prefix: str) -> float:
    """What all frequencies are divided by.

    Raises:
        InputError: E1106, a scaling that is more than a factor.
    """
    key = prefix + "rope.scaling.type"
    kind = reader.values.get(key, "linear")
    old = prefix + "rope.scale_linear"
    reader.used |= {key, old}
    name = prefix + "rope.scaling.factor"
    name = name if name in reader.values else old
    factor = reader.number(name, 1.0) if reader.values.get(name) != 0 else 1.0
    if kind == "none":
        return 1.0
    if kind != "linear":
        raise InputError(
            "E1106",
            f"{reader.source}: {key} {kind!r} is not supported in GGUF",
            "supported are none, linear and Llama 3's (the tensor rope_freqs.weight); use a file of the model without "
            "its context extension",
        )
    return factor


def _linear(theta: float, factor: float) -> RopeConfig:
    return RopeConfig("default", theta) if factor == 1 else RopeConfig("linear", theta, factor=factor)


def _from_divisors(reader: ConfigReader, theta: float, found: NDArray[np.float32], factor: float) -> RopeConfig:
    if np.all(found == found[0]) and found[0] > 0:
        return _linear(theta, factor * float(found[0]))
    if factor != 1:
        raise InputError(
            "E1106",
            f"{reader.source}: rope_freqs.weight beside a scaling factor of {factor:g} is not supported",
            "use a file of the model that has one of them, or the original safetensors checkpoint",
        )
    # The frequencies that turn least are divided by the whole factor, unless the heads are so narrow that none of them
    # turns little enough.
    for whole in dict.fromkeys([float(found.max()), *_PUBLISHED_FACTORS]):
        for original in _ORIGINALS if 1 < whole < math.inf else ():
            # what float32 makes of the converter's arithmetic; the last frequencies turn too little to show it
            expected = llama3_divisors(theta, 2 * len(found), whole, _LOW, _HIGH, original)
            if np.allclose(found, expected, rtol=2e-5, atol=0):
                return RopeConfig("llama3", theta, whole, _LOW, _HIGH, original)
    raise InputError(
        "E1106",
        f"{reader.source}: rope_freqs.weight belongs to no Llama 3 scaling with the factors {_LOW:g} and {_HIGH:g}",
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
