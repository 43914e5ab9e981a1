"""The paged KV cache as kernels see it: blocks of positions in a pool, found through a table, 8-bit values with scales.

A pool holds one layer's keys or values as [N, Hkv, block, D]: positions [block * j, block * (j + 1)) of sequence i lie
in entry `block_table[i, j]` of every layer's pools. A head's positions lie side by side within a block, so that
attention streams them. With int8 a second pool, float32 [N, Hkv, block], holds the scale of each token and head: x is
about code * scale, with scale = max |x| / 127 and codes rounded to nearest even.
"""

from __future__ import annotations

from typing import Literal, get_args

from xamc.compiler.contract import KV_BLOCK
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import Isa

KvDtype = Literal["float32", "float16", "bfloat16", "int8"]
KV_DTYPES: tuple[KvDtype, ...] = get_args(KvDtype)

GRAIN = 8
"""Blocks are multiples of this: as many consecutive positions from a multiple of it on lie in one block."""

LARGEST_CODE = 127.0


class Pool:
    """One layer's keys or values, seen through a block table.

    Attributes:
        heads: KV heads Hkv.
        block: positions of a block.
        d: elements D of a head.
        scales: of int8 values, else None.
    """

    def __init__(self, values: E.Buffer, scales: E.Buffer | None, table: E.Buffer, isa: Isa) -> None:
        self.values, self.scales = values, scales
        self._table, self._isa = table, isa
        self.heads, self.block, self.d = (int(extent) for extent in values.shape[1:])

    @property
    def capacity(self) -> E.Expr:
        """Positions that a row of the table reaches."""
        return E.i64(self._table.shape[1] * self.block)

    def place(self, i: E.Expr, position: E.Expr) -> tuple[E.Expr, E.Expr]:
        """Where a position of sequence i lies: the pool's entry, and the offset in it; bound here."""
        return E.let(E.i64(E.load(self._table, [i, position // self.block]))), E.let(position % self.block)

    def load(self, place: tuple[E.Expr, E.Expr], head: E.Expr, e: E.Expr, lanes: int) -> E.Expr:
        """Elements e, e + 1, ... as float32; of int8 values the codes."""
        return E.load_float(self.values, [place[0], head, place[1], e], lanes, self._isa)

    def scale(self, place: tuple[E.Expr, E.Expr], head: E.Expr, positions: int = 1) -> E.Expr:
        """The scales of `positions` consecutive positions of one block, int8 only."""
        return E.load(self.scales, [place[0], head, place[1]], positions)

    def write(self, place: tuple[E.Expr, E.Expr], head: E.Expr, value: E.LaneReader) -> None:
        """Stores the D elements that `value` yields, rounded to nearest even; int8 with a scale of their own."""
        if self.scales is None:
            E.lanewise(
                self.d,
                self._isa,
                lambda e, lanes: self.put(place, head, e, value(e, lanes), lanes),
            )
        else:
            row = E.scratch((self.d,))
            E.lanewise(self.d, self._isa, lambda e, lanes: E.store(row, [e], value(e, lanes), lanes))
            self.quantize(place, head, row)

    def put(self, place: tuple[E.Expr, E.Expr], head: E.Expr, e: E.Expr, value: E.Expr, lanes: int) -> None:
        """Stores float32 elements of a pool that is not int8."""
        E.store_float(self.values, [place[0], head, place[1], e], value, lanes, self._isa)

    def quantize(self, place: tuple[E.Expr, E.Expr], head: E.Expr, row: E.Buffer) -> None:
        """Stores the float32 [D] of `row` as codes and a scale."""
        largest = E.let(E.largest_magnitude(row, self.d, self._isa))
        E.store(self.scales, [place[0], head, place[1]], largest * E.f32(1 / LARGEST_CODE))
        # a token of zeros has the scale 0 and codes 0; a subnormal maximum would make the factor infinite
        tiny = largest < E.f32(1e-30)
        factor = E.let(E.choose(tiny, E.f32(0), E.f32(LARGEST_CODE) / E.maximum(largest, E.f32(1e-30))))

        def code(e: E.Expr, lanes: int) -> None:
            value = E.round_to_int8(E.load(row, [e], lanes) * E.splat(factor, lanes), lanes)
            E.store(self.values, [place[0], head, place[1], e], value, lanes)

        E.lanewise(self.d, self._isa, code)


def declare_pools(
    hkv: int, d: int, dtype: KvDtype, table: E.Buffer, isa: Isa, block: int = KV_BLOCK
) -> tuple[Pool, Pool]:
    """Declares the next parameters, cache_k and cache_v [N, Hkv, block, D] and for int8 scale_k and scale_v
    float32 [N, Hkv, block], and returns keys and values."""
    if block % GRAIN:
        raise ValueError(f"a block of {block} positions is not a multiple of {GRAIN}")
    n = E.dynamic("n")
    values = [E.parameter(f"cache_{kind}", (n, hkv, block, d), dtype) for kind in "kv"]
    scales = [E.parameter(f"scale_{kind}", (n, hkv, block), "float32") if dtype == "int8" else None for kind in "kv"]
    keys, vals = (Pool(value, scale, table, isa) for value, scale in zip(values, scales, strict=True))
    return keys, vals
