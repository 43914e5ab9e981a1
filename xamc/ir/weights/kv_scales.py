"""Scales and zero points of an int8 KV cache: one pair per KV head and channel, for keys and for values.

    x ≈ q * scale + zero        q in [-127, 127]; scale = (max - min) / 254, zero = (max + min) / 2

The zero point is a number of x's own kind and not a code, as keys can lie far from 0 (families with a key bias) and
255 levels are better spent between their minimum and maximum. Scales and zero points are float32: the same pair
quantizes and dequantizes, and a zero point of 200 rounded to float16 would shift a narrow range by whole codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from xamc.errors import InputError, InternalError
from xamc.model.config import ModelConfig
from xamc.model.kv_cache import past_key, past_value

F32 = NDArray[np.float32]
Range = tuple[F32, F32]

LARGEST_CODE = 127
# in a file's metadata
_KEYS, _UNBIASED = "keys", "without their biases"
_PICKLES = (".pth", ".pt", ".bin", ".pkl")


def scales_name(past: str) -> str:
    """Name of the scales [Hkv, D] of what `past_key(i)` or `past_value(i)` names."""
    return f"{past}.scales"


def zeros_name(past: str) -> str:
    """Name of the zero points [Hkv, D]."""
    return f"{past}.zeros"


def past_names(config: ModelConfig) -> list[str]:
    """`past_key.0`, `past_value.0`, `past_key.1`, ... of a model."""
    layers = range(config.num_layers)
    return [name(layer) for layer in layers for name in (past_key, past_value)]


@dataclass(frozen=True, eq=False)
class KvScales:
    """The scales and zero points of one model.

    Attributes:
        config: the model they belong to.
        tensors: `past_key.0.scales`, `past_key.0.zeros`, `past_value.0.scales`, ... float32 [Hkv, D] each.
        unbiased_keys: whether they are for keys without their rotated biases (`passes.graph.key_bias_apart`).
    """

    config: ModelConfig
    tensors: Mapping[str, F32]
    unbiased_keys: bool = False

    def __post_init__(self) -> None:
        shape = (self.config.num_kv_heads, self.config.head_dim)
        for past in past_names(self.config):
            for name in (scales_name(past), zeros_name(past)):
                array = self.tensors.get(name)
                if array is None or array.shape != shape or array.dtype != np.float32:
                    found = "missing" if array is None else f"{array.dtype} {list(array.shape)}"
                    raise InternalError("E1160", f"{name} is {found}, not float32 {list(shape)}")

    @staticmethod
    def from_ranges(config: ModelConfig, ranges: Mapping[str, Range], unbiased_keys: bool = False) -> KvScales:
        """Scales that spread the codes -127 to 127 over (minimum, maximum) of each channel.

        A channel that never changes has scale 1, and its value is the zero point.

        Args:
            config: the model.
            ranges: `past_key.0`, `past_value.0`, ... -> (minimum, maximum), float32 [Hkv, D] each.
            unbiased_keys: whether they are those of keys without their biases.
        """
        tensors: dict[str, F32] = {}
        for past, (low, high) in ranges.items():
            # in float64, where the sum and the difference of two float32 can't overflow
            a, b = low.astype(np.float64), high.astype(np.float64)
            scale = ((b - a) / (2 * LARGEST_CODE)).astype(np.float32)
            scale[scale == 0] = 1.0
            tensors[scales_name(past)] = scale
            tensors[zeros_name(past)] = ((a + b) / 2).astype(np.float32)
        return KvScales(config, tensors, unbiased_keys)

    def save(self, path: Path) -> None:
        """Writes a safetensors file that `read_kv_scales` reads."""
        metadata = {_KEYS: _UNBIASED} if self.unbiased_keys else None
        safetensors.numpy.save_file(dict(self.tensors), path, metadata)


def read_kv_scales(path: Path, config: ModelConfig) -> KvScales:
    """Reads scales from a safetensors file: `past_key.{i}.scales`, `past_key.{i}.zeros` and so on, [Hkv, D] each.

    Args:
        path: the file; float16 and bfloat16 tensors are widened.
        config: the model they are for.

    Raises:
        InputError: E1161 a file of another kind, E1162 a tensor that is missing, has another shape, or holds a scale
            that is not positive or not finite.
    """
    if path.suffix.lower() in _PICKLES:
        raise InputError(
            "E1161",
            f"{path} is a pickled file, which can run any code when it is read; KV scales are read from safetensors",
            fix="convert it: a safetensors file with past_key.{i}.scales, past_key.{i}.zeros, past_value.{i}.scales "
            "and past_value.{i}.zeros of shape [KV heads, head_dim] (docs/vacc.md shows how)",
        )
    try:
        found = safetensors.numpy.load_file(path)
        with safe_open(path, "numpy") as file:
            unbiased = (file.metadata() or {}).get(_KEYS) == _UNBIASED
    except (OSError, SafetensorError) as error:
        raise InputError(
            "E1161", f"{path} can't be read as safetensors: {error}", fix="give a safetensors file with the KV scales"
        ) from error
    shape = (config.num_kv_heads, config.head_dim)
    tensors: dict[str, F32] = {}
    for past in past_names(config):
        for name in (scales_name(past), zeros_name(past)):
            array = found.get(name)
            if array is None or array.shape != shape:
                what = "lacks" if array is None else f"has shape {list(array.shape)} for"
                raise InputError(
                    "E1162",
                    f"{path} {what} {name}; the model has {config.num_layers} layers and needs {list(shape)} for each",
                    fix="use the scales of this very model, one row per KV head of the whole model (not of one rank)",
                )
            tensors[name] = array.astype(np.float32)
            wrong = ~np.isfinite(tensors[name])
            if name == scales_name(past):
                wrong |= tensors[name] <= 0
            if wrong.any():
                head, channel = (int(i) for i in np.argwhere(wrong)[0])
                raise InputError(
                    "E1162",
                    f"{path}: {name} is {float(tensors[name][head, channel]):g} for head {head}, channel {channel}",
                    fix="scales are positive and finite numbers, zero points finite ones",
                )
    return KvScales(config, tensors, unbiased)


def quantize_kv(x: F32, scales: F32, zeros: F32) -> NDArray[np.int8]:
    """Codes of keys or values: round((x - zero) / scale), ties to even, clamped to [-127, 127].

    Args:
        x: float32 [B, Hkv, T, D].
        scales: float32 [Hkv, D].
        zeros: float32 [Hkv, D].
    """
    levels = np.rint((x - zeros[:, None]) / scales[:, None])
    codes: NDArray[np.int8] = np.clip(levels, -LARGEST_CODE, LARGEST_CODE).astype(np.int8)
    return codes


def dequantize_kv(codes: NDArray[np.int8], scales: F32, zeros: F32) -> F32:
    """float32 [B, Hkv, T, D]: code * scale + zero."""
    values: F32 = codes.astype(np.float32) * scales[:, None] + zeros[:, None]
    return values
