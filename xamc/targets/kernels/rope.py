"""Rotary position embedding (Su et al., 2021) in Llama's half-split form, and writing keys and values to the cache.

For a head x of D elements and the angles of its position, with x1 its first and x2 its second half:
y1 = x1 cos - x2 sin, y2 = x2 cos + x1 sin. Cosines and sines are float32 [R, D/2], a row per position.
"""

from __future__ import annotations

from collections.abc import Sequence

from xamc.model.kv_cache import KV_BLOCK
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.kv_pages import KvDtype, Place, Pool, declare_pools
from xamc.targets.kernels.norm import inverse_rms

_ROW_THRESHOLD = 4


def rope(heads: int, d: int, isa: Isa, *, width: int | None = None, offset: int = 0) -> E.PrimFunc:
    """RoPE of `heads` heads that lie side by side in a row.

    Args:
        heads: number of heads H.
        d: elements D of a head.
        isa: the level to generate for.
        width: elements W of an input row, H * D if None.
        offset: first element of the heads in an input row.

    Returns:
        A PrimFunc (x float32 [B, S, W], position_ids int64 [B, S], cos float32 [R, D/2], sin float32 [R, D/2],
        y float32 [B, S, H * D]).
    """

    def body() -> None:
        b, s, r = E.dynamic("b"), E.dynamic("s"), E.dynamic("r")
        x = E.parameter("x", (b, s, width or heads * d), "float32")
        positions = E.parameter("position_ids", (b, s), "int64")
        cos = E.parameter("cos", (r, d // 2), "float32")
        sin = E.parameter("sin", (r, d // 2), "float32")
        y = E.parameter("y", (b, s, heads * d), "float32")

        def row(index: E.Expr) -> None:
            i, j = E.let(index // s), E.let(index % s)
            position = E.let(E.load(positions, [i, j]))
            with E.serial(heads) as head:
                first = E.let(head * d)
                _rotate(
                    lambda c, lanes: E.load(x, [i, j, offset + first + c], lanes),
                    lambda c, value, lanes: E.store(y, [i, j, first + c], value, lanes),
                    cos,
                    sin,
                    position,
                    d,
                    isa,
                )

        E.rows(b * s, row, _ROW_THRESHOLD)

    return E.build(f"rope_{heads}x{d}_{width or heads * d}_{offset}", body)


def rope_kv_write(
    hq: int,
    hkv: int,
    d: int,
    kv_dtype: KvDtype,
    isa: Isa,
    *,
    qk_norm: bool = False,
    eps: float = 1e-6,
    key_bias: bool = False,
    block: int = KV_BLOCK,
) -> E.PrimFunc:
    """What lies between a fused QKV projection and attention, in one pass: q/k norm, RoPE, cache update.

    Args:
        hq: query heads.
        hkv: key and value heads.
        d: elements D of a head.
        kv_dtype: dtype of the caches; values are rounded to nearest even, int8 with a scale per token and head.
        isa: the level to generate for.
        qk_norm: whether queries and keys are RMS-normalized per head before RoPE.
        eps: of that norm.
        key_bias: whether keys are cached without their bias (see `key_bias`); not with `qk_norm`, which comes after it.
        block: positions of a block of the cache.

    Returns:
        A PrimFunc (qkv float32 [B, S, (Hq + 2 Hkv) * D], position_ids int64 [B, S], block_table int32 [B, M],
        write_index int64 [B], cos float32 [R, D/2], sin float32 [R, D/2], q_norm float32 [D] and k_norm float32 [D] if
        `qk_norm`, the projection's bias float32 [(Hq + 2 Hkv) * D] if `key_bias`, the pools of keys and values (see
        `declare_pools`), mutated, q_out float32 [B, S, Hq * D]). Row j of sequence i goes to position
        write_index[i] + j; positions beyond the table are dropped.
    """

    def body() -> None:
        b, s, r = E.dynamic("b"), E.dynamic("s"), E.dynamic("r")
        qkv = E.parameter("qkv", (b, s, (hq + 2 * hkv) * d), "float32")
        positions = E.parameter("position_ids", (b, s), "int64")
        table = E.parameter("block_table", (b, E.dynamic("m")), "int32")
        write_index = E.parameter("write_index", (b,), "int64")
        cos = E.parameter("cos", (r, d // 2), "float32")
        sin = E.parameter("sin", (r, d // 2), "float32")
        norms = [E.parameter(name, (d,), "float32") for name in ("q_norm", "k_norm")] if qk_norm else [None, None]
        bias = E.parameter("qkv_bias", ((hq + 2 * hkv) * d,), "float32") if key_bias else None
        keys, values = declare_pools(hkv, d, kv_dtype, table, isa, block)
        q_out = E.parameter("q_out", (b, s, hq * d), "float32")

        def row(index: E.Expr) -> None:
            i, j = E.let(index // s), E.let(index % s)
            position = E.let(E.load(positions, [i, j]))
            slot = E.let(E.load(write_index, [i]) + j)

            projected = Projected(qkv, [i, j], hq, hkv, d, (cos, sin, position), norms, eps, isa, bias)
            with E.serial(hq) as head:
                first = E.let(head * d)
                projected.query(head, lambda e, value, lanes: E.store(q_out, [i, j, first + e], value, lanes))

            def write() -> None:
                place = keys.place(i, slot)
                with E.serial(hkv) as head:
                    projected.cache(head, keys, values, place)

            E.when(slot < keys.capacity, write)

        E.rows(b * s, row, _ROW_THRESHOLD)

    suffix = "_norm" * qk_norm + "_key_bias" * key_bias
    return E.build(f"rope_kv_write_{hq}_{hkv}x{d}_{kv_dtype}_b{block}{suffix}", body)


class Projected:
    """A token's queries, keys and values as their projection left them, side by side in a row."""

    def __init__(
        self,
        qkv: E.Buffer,
        row: list[E.Expr],
        hq: int,
        hkv: int,
        d: int,
        angles: tuple[E.Buffer, E.Buffer, E.Expr],
        norms: Sequence[E.Buffer | None],
        eps: float,
        isa: Isa,
        bias: E.Buffer | None = None,
    ) -> None:
        """Args:
        qkv: float32, elements along the last axis.
        row: the other indices.
        hq: query heads.
        hkv: key and value heads.
        d: elements of a head.
        angles: cos and sin [R, D/2] and the token's position.
        norms: weights [D] of the RMSNorm of queries and of keys, or None.
        eps: of those norms.
        isa: the level to generate for.
        bias: float32, what the projection added to `qkv` and the cached keys are without, or None.
        """
        self.bias = bias
        self.qkv, self.row, self.hq, self.hkv, self.d = qkv, row, hq, hkv, d
        self.angles, self.norms, self.eps, self.isa = angles, norms, eps, isa

    def query(self, head: E.Expr, write: E.LaneWriter) -> None:
        """Normalizes, if asked for, and rotates a query head."""
        _rotate(self._reader(E.let(head * self.d), self.norms[0]), write, *self.angles, self.d, self.isa)

    def cache(self, head: E.Expr, keys: Pool, values: Pool, place: Place) -> None:
        """Puts a key head, normalized and rotated like queries, and a value head into the cache."""
        key, value = E.scratch((self.d,)), E.scratch((self.d,))
        first = E.let((self.hq + head) * self.d)
        read = self._reader(first, self.norms[1])
        if self.bias is not None:
            read = self._unbiased(first)
        _rotate(read, lambda e, new, lanes: E.store(key, [e], new, lanes), *self.angles, self.d, self.isa)
        keys.write(place, head, key)
        read = self._reader(E.let((self.hq + self.hkv + head) * self.d), None)
        E.lanewise(self.d, self.isa, lambda e, lanes: E.store(value, [e], read(e, lanes), lanes))
        values.write(place, head, value)

    def _unbiased(self, first: E.Expr) -> E.LaneReader:
        return lambda e, lanes: E.load(self.qkv, [*self.row, first + e], lanes) - E.load(self.bias, [first + e], lanes)

    def _reader(self, first: E.Expr, norm: E.Buffer | None) -> E.LaneReader:
        def read(e: E.Expr, lanes: int) -> E.Expr:
            return E.load(self.qkv, [*self.row, first + e], lanes)

        if norm is None:
            return read
        factor = inverse_rms(read, self.d, self.eps, self.isa)
        return lambda e, lanes: read(e, lanes) * E.splat(factor, lanes) * E.load(norm, [e], lanes)


def _rotate(
    read: E.LaneReader,
    write: E.LaneWriter,
    cos: E.Buffer,
    sin: E.Buffer,
    position: E.Expr,
    d: int,
    isa: Isa,
) -> None:
    """Rotates one head."""
    half = d // 2

    def rotate(e: E.Expr, lanes: int) -> None:
        cosine, sine = E.let(E.load(cos, [position, e], lanes)), E.let(E.load(sin, [position, e], lanes))
        low, high = E.let(read(e, lanes)), E.let(read(e + half, lanes))
        write(e, low * cosine - high * sine, lanes)
        write(e + half, high * cosine + low * sine, lanes)

    E.lanewise(half, isa, rotate)
