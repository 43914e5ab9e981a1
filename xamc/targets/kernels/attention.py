"""Causal attention over an in-place KV cache, with grouped queries, ragged lengths and sliding windows."""

from __future__ import annotations

from typing import Literal

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.attention_decode import emit_decode
from xamc.targets.kernels.attention_prefill import emit_prefill
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.rope import KvDtype


def attention(
    hq: int,
    hkv: int,
    d: int,
    kv_dtype: KvDtype,
    isa: Isa,
    *,
    scale: float,
    m: Literal["one", "any"],
    window: int | None = None,
) -> E.PrimFunc:
    """softmax(scale q k^T) v, exactly, accumulated in float32.

    Query j of sequence i sits at position p = write_index[i] + j and attends to the cached positions t with
    p - window < t <= p; the new keys and values are in the cache already.

    Args:
        hq: query heads, a multiple of `hkv`.
        hkv: key and value heads.
        d: elements D of a head.
        kv_dtype: dtype of the caches.
        isa: the level to generate for.
        scale: factor of the scores.
        m: ``one`` for exactly one query per sequence (S = 1), ``any`` for a symbolic S.
        window: length of the sliding window, None for full attention.

    Returns:
        A PrimFunc (q float32 [B, S, Hq * D], cache_k [B, Hkv, C, D], cache_v [B, Hkv, C, D], write_index int64 [B],
        y float32 [B, S, Hq * D]).
    """

    def body() -> None:
        b, c = E.dynamic("b"), E.dynamic("c")
        s = 1 if m == "one" else E.dynamic("s")
        q = E.parameter("q", (b, s, hq * d), "float32")
        cache_k = E.parameter("cache_k", (b, hkv, c, d), kv_dtype)
        cache_v = E.parameter("cache_v", (b, hkv, c, d), kv_dtype)
        write_index = E.parameter("write_index", (b,), "int64")
        y = E.parameter("y", (b, s, hq * d), "float32")
        arguments = (q, cache_k, cache_v, write_index, y, isa, scale, window)
        if m == "one":
            emit_decode(*arguments)
        else:
            E.when(s == 1, lambda: emit_decode(*arguments), lambda: emit_prefill(*arguments))

    suffix = f"_w{window}" if window else ""
    return E.build(f"attention_{m}_{hq}_{hkv}x{d}_{kv_dtype}{suffix}", body)
