"""Causal attention over a paged KV cache, with grouped queries, ragged lengths and sliding windows."""

from __future__ import annotations

from typing import Literal

from xamc.model.kv_cache import KV_BLOCK
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.attention_decode import emit_decode
from xamc.targets.kernels.attention_prefill import emit_prefill
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.key_bias import KeyBias
from xamc.targets.kernels.kv_pages import KvDtype, declare_pools
from xamc.targets.kernels.tiles import DEFAULT_ATTENTION, AttentionTiles


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
    block: int = KV_BLOCK,
    key_bias: bool = False,
    tiles: AttentionTiles = DEFAULT_ATTENTION,
) -> E.PrimFunc:
    """softmax(scale q k^T) v, exactly, accumulated in float32.

    Query j of sequence i sits at position p = write_index[i] + j and attends to the cached positions t with
    p - window < t <= p; the new keys and values are in the cache already. See `kv_pages` for the cache's layout.

    Args:
        hq: query heads, a multiple of `hkv`.
        hkv: key and value heads.
        d: elements D of a head.
        kv_dtype: dtype of the caches.
        isa: the level to generate for.
        scale: factor of the scores.
        m: ``one`` for exactly one query per sequence (S = 1), ``any`` for a symbolic S.
        window: length of the sliding window, None for full attention.
        block: positions of a block of the cache.
        key_bias: whether keys are cached without their bias, which is added here (see `key_bias`).
        tiles: how the work is cut.

    Returns:
        A PrimFunc (q float32 [B, S, Hq * D], block_table int32 [B, M], write_index int64 [B], and if `key_bias` cos
        and sin float32 [R, D/2] and the bias of the projection of queries, keys and values float32
        [(Hq + 2 Hkv) * D]; the pools of keys and values (see `declare_pools`), y float32 [B, S, Hq * D]).
    """

    def body() -> None:
        b = E.dynamic("b")
        s = 1 if m == "one" else E.dynamic("s")
        q = E.parameter("q", (b, s, hq * d), "float32")
        table = E.parameter("block_table", (b, E.dynamic("m")), "int32")
        write_index = E.parameter("write_index", (b,), "int64")
        bias = None
        if key_bias:
            rows = E.dynamic("r")
            angles = [E.parameter(name, (rows, d // 2), "float32") for name in ("cos", "sin")]
            qkv_bias = E.parameter("qkv_bias", ((hq + 2 * hkv) * d,), "float32")
            bias = KeyBias(qkv_bias, hq, d, (angles[0], angles[1]), isa)
        keys, values = declare_pools(hkv, d, kv_dtype, table, isa, block)
        y = E.parameter("y", (b, s, hq * d), "float32")
        arguments = (q, keys, values, write_index, y, isa, scale, window, bias)
        if m == "one":
            emit_decode(*arguments)
        else:
            E.when(s == 1, lambda: emit_decode(*arguments), lambda: emit_prefill(*arguments, tiles))

    suffix = (f"_w{window}" if window else "") + "_key_bias" * key_bias
    return E.build(f"attention_{m}_{hq}_{hkv}x{d}_{kv_dtype}_b{block}{suffix}", body)
