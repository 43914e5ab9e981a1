"""NumPy definitions of the dialect, so that a Relax module runs before kernels are selected.

Slow and plain on purpose: this is what the dialect means, and what the fused kernels are compared with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import tvm
from numpy.typing import NDArray

from xamc.ir.dialect import PREFIX

Array = NDArray[Any]
Definition = Callable[..., Array | tuple[Array, ...]]
DEFINITIONS: dict[str, Definition] = {}
_Function = TypeVar("_Function", bound=Callable[..., Any])


def defines(name: str) -> Callable[[_Function], _Function]:
    """Registers the NumPy definition of one dialect operator."""

    def register(function: _Function) -> _Function:
        DEFINITIONS[name] = function
        return function

    return register


def register_interpreter() -> None:
    """Makes every definition callable by the Relax VM of this process."""
    for name in DEFINITIONS:
        tvm.register_global_func(f"{PREFIX}{name}", _packed(name), override=True)


@contextmanager
def replaced(others: Mapping[str, Definition]) -> Iterator[None]:
    """Other definitions in the places of those they name, also for a VM that has looked its functions up already."""
    before = dict(DEFINITIONS)
    DEFINITIONS.update(others)
    try:
        yield
    finally:
        DEFINITIONS.update(before)


def _packed(name: str) -> Callable[..., None]:
    def call(*arguments: Any) -> None:
        function = DEFINITIONS[name]
        place = next(i for i, a in enumerate(arguments) if isinstance(a, str))
        inputs = [a.numpy() for a in arguments[:place]]
        results = function(*inputs, **json.loads(str(arguments[place])))
        outputs = results if isinstance(results, tuple) else (results,)
        for target, value in zip(arguments[place + 1 :], outputs, strict=True):
            target.copyfrom(np.ascontiguousarray(value))

    return call


@defines("dequantize")
def dequantize(codes: Array, scales: Array, zeros: Array | None = None, *, kind: str, group: int | None) -> Array:
    """(code - zero) * scale in float32, with scales and zeros per row or per `group` columns."""
    values = codes.astype(np.float32)
    scales = scales.astype(np.float32)
    if group is None:
        scale = scales.reshape(-1, 1)
        zero: Any = 0.0 if zeros is None else zeros.astype(np.float32).reshape(-1, 1)
    else:
        scale = np.repeat(scales, group, axis=1)[:, : codes.shape[1]]
        zero = 0.0 if zeros is None else np.repeat(zeros.astype(np.float32), group, axis=1)[:, : codes.shape[1]]
    return np.asarray((values - zero) * scale, np.float32)


@defines("linear")
def linear(x: Array, weight: Array, *rest: Array, format: dict[str, Any], bias: bool, residual: bool) -> Array:
    """x [..., K] times weight [N, K] transposed, plus bias [N], plus residual [..., N]."""
    extra = list(rest)
    if format["kind"] in ("int8", "uint4"):
        scales = extra.pop(0)
        zeros = extra.pop(0) if format["kind"] == "uint4" else None
        weight = dequantize(weight, scales, zeros, kind=format["kind"], group=format["group"])
    y = x @ weight.astype(np.float32).T
    if bias:
        y = y + extra.pop(0)
    if residual:
        y = y + extra.pop(0)
    return np.asarray(y, np.float32)


@defines("embedding")
def embedding(ids: Array, weight: Array, *rest: Array, format: dict[str, Any]) -> Array:
    """Rows of the (possibly quantized) table [V, H] at ids [...]."""
    extra = list(rest)
    if format["kind"] in ("int8", "uint4"):
        scales = extra.pop(0)
        zeros = extra.pop(0) if format["kind"] == "uint4" else None
        weight = dequantize(weight, scales, zeros, kind=format["kind"], group=format["group"])
    return weight.astype(np.float32)[ids]


@defines("rms_norm")
def rms_norm(x: Array, weight: Array, *, epsilon: float) -> Array:
    """ONNX RMSNormalization over the last axis."""
    return np.asarray(x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon) * weight, np.float32)


@defines("add_rms_norm")
def add_rms_norm(x: Array, residual: Array, weight: Array, *, epsilon: float) -> tuple[Array, Array]:
    """(norm(x + residual), x + residual)."""
    total = x + residual
    return rms_norm(total, weight, epsilon=epsilon), total


@defines("rotary_embedding")
def rotary_embedding(x: Array, cos: Array, sin: Array, positions: Array) -> Array:
    """ONNX RotaryEmbedding, half-split: x [B, H, S, D], tables [R, D/2], positions [B, S]."""
    c, s = cos[positions][:, None], sin[positions][:, None]
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * c - b * s, b * c + a * s], axis=-1)


@defines("tensor_scatter")
def tensor_scatter(cache: Array, update: Array, index: Array) -> Array:
    """ONNX TensorScatter along axis 2: row b of update [B, H, S, D] goes to positions index[b]..index[b] + S."""
    result = cache.copy()
    for row, start in enumerate(index):
        result[row, :, start : start + update.shape[2]] = update[row]
    return result


@defines("attention")
def attention(query: Array, key: Array, value: Array, index: Array, *, scale: float, window: int | None) -> Array:
    """Causal attention over a cache: query i of row b stands at index[b] + i. Softmax in float32."""
    batch, heads, length, _ = query.shape
    group = heads // key.shape[1]
    keys, values = np.repeat(key, group, axis=1), np.repeat(value, group, axis=1)
    output = np.empty_like(query)
    columns = np.arange(key.shape[2])
    for row in range(batch):
        positions = index[row] + np.arange(length)[:, None]
        visible = columns <= positions
        if window is not None:
            visible &= columns > positions - window
        scores = query[row] @ keys[row].astype(np.float32).transpose(0, 2, 1) * scale
        scores = np.where(visible, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        output[row] = weights @ np.where(np.isfinite(values[row]), values[row], 0).astype(np.float32)
    return output


@defines("swiglu")
def swiglu(gate: Array, up: Array) -> Array:
    """silu(gate) * up."""
    return np.asarray(gate / (1 + np.exp(-gate)) * up, np.float32)


@defines("swiglu_packed")
def swiglu_packed(gate_up: Array) -> Array:
    """SwiGLU of a row that holds gate and up one after the other: [..., 2I] -> [..., I]."""
    half = gate_up.shape[-1] // 2
    return swiglu(gate_up[..., :half], gate_up[..., half:])


@defines("columns")
def columns(x: Array, *, start: int, stop: int) -> Array:
    """Columns [start, stop) of the last axis."""
    return x[..., start:stop]


@defines("gather_position")
def gather_position(hidden: Array, index: Array) -> Array:
    """hidden [B, S, H] at index [B] -> [B, 1, H]."""
    return hidden[np.arange(hidden.shape[0]), index][:, None]


@defines("rope_kv_write")
def rope_kv_write(
    qkv: Array,
    positions: Array,
    index: Array,
    cos: Array,
    sin: Array,
    cache_key: Array,
    cache_value: Array,
    *norms: Array,
    heads: int,
    kv_heads: int,
    head_dim: int,
    epsilon: float | None,
) -> tuple[Array, Array, Array]:
    """Packed q|k|v rows [B, S, (Hq + 2 Hkv) D]: optional q/k norm, RoPE, and k and v into the caches.

    Returns the rotated queries [B, S, Hq D] and both caches after the write.
    """
    batch, length, _ = qkv.shape
    parts = qkv.reshape(batch, length, heads + 2 * kv_heads, head_dim).transpose(0, 2, 1, 3)
    q, k, v = parts[:, :heads], parts[:, heads : heads + kv_heads], parts[:, heads + kv_heads :]
    if norms:
        assert epsilon is not None
        q, k = rms_norm(q, norms[0], epsilon=epsilon), rms_norm(k, norms[1], epsilon=epsilon)
    q, k = rotary_embedding(q, cos, sin, positions), rotary_embedding(k, cos, sin, positions)
    rotated = q.transpose(0, 2, 1, 3).reshape(batch, length, heads * head_dim)
    return (
        rotated,
        tensor_scatter(cache_key, k.astype(cache_key.dtype), index),
        tensor_scatter(cache_value, v.astype(cache_value.dtype), index),
    )


@defines("attention_rows")
def attention_rows(
    query: Array,
    key: Array,
    value: Array,
    index: Array,
    *,
    heads: int,
    scale: float,
    window: int | None,
) -> Array:
    """`attention` on query rows [B, S, Hq D], giving rows of the same form."""
    batch, length, width = query.shape
    split = query.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)
    mixed = attention(split, key, value, index, scale=scale, window=window)
    return mixed.transpose(0, 2, 1, 3).reshape(batch, length, width)
