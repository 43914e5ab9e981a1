"""The paged KV cache as kernels see it: blocks of positions in a pool, found through a table, 8-bit values with scales.

A pool holds one layer's values as [N, Hkv, block, D] and its keys as [N, Hkv, D, block], so that both products of
attention read vectors along the last axis: scores of consecutive positions, elements of the output. Positions
[block * j, block * (j + 1)) of sequence i lie in entry `block_table[i, j]` of every layer's pools. With int8 a second
pool, float32 [N, Hkv, block], holds the scale of each token and head: x is about code * scale, with
scale = max |x| / 127 and codes rounded to nearest even.
"""

from __future__ import annotations

from typing import Literal

from xamc.model.dtypes import DTYPE_BYTES
from xamc.model.kv_cache import KV_BLOCK
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import Isa

KvDtype = Literal["float32", "float16", "bfloat16", "int8"]

GRAIN = 8
"""Blocks are multiples of this: as many consecutive positions from a multiple of it on lie in one block."""

LARGEST_CODE = 127.0

Place = tuple[E.Expr, E.Expr]
"""Entry of a pool, and position in it."""


class Pool:
    """One layer's keys or values, seen through a block table.

    Attributes:
        values: [N, Hkv, block, D], or [N, Hkv, D, block] of keys.
        scales: float32 [N, Hkv, block] of int8 values, else None.
        heads: KV heads Hkv.
        block: positions of a block.
        d: elements D of a head.
    """

    def __init__(self, values: E.Buffer, scales: E.Buffer | None, table: E.Buffer, isa: Isa, keys: bool) -> None:
        self.values, self.scales, self._is_keys = values, scales, keys
        self._table, self._isa = table, isa
        self.heads, *last = (int(extent) for extent in values.shape[1:])
        self.d, self.block = last if keys else reversed(last)

    @property
    def capacity(self) -> E.Expr:
        """Positions that a row of the table reaches."""
        return E.i64(self._table.shape[1] * self.block)

    def place(self, i: E.Expr, position: E.Expr) -> Place:
        """Where a position of sequence i lies: the pool's entry, and the offset in it; bound here."""
        return E.let(E.i64(E.load(self._table, [i, position // self.block]))), E.let(position % self.block)

    def load(self, place: Place, head: E.Expr, e: E.Expr, lanes: int) -> E.Expr:
        """`lanes` float32 along the last axis; of int8 values the codes.

        Elements e, e + 1, ... of a value; of keys element e of consecutive positions of one block.
        """
        value = E.load_float(self.values, self._index(place, head, e), lanes, self._isa)
        return value if self.scales is None else E.cast(value, "float32", lanes)

    def scale(self, place: Place, head: E.Expr, positions: int = 1) -> E.Expr:
        """The scales of `positions` consecutive positions of one block, int8 only."""
        return E.load(self.scales, [place[0], head, place[1]], positions)

    @property
    def lines(self) -> int:
        """Cache lines of a head's part of a block."""
        return self.block * self.d // self._line

    @property
    def _line(self) -> int:
        """Elements of a cache line."""
        return 64 // int(DTYPE_BYTES[str(self.values.ty.dtype)])

    def prefetch(self, page: E.Expr, head: E.Expr, first: E.Expr, lines: int) -> None:
        """Asks for lines [first, first + lines) of a head's part of a block."""
        width = int(self.values.shape[3])
        with E.serial(lines) as line:
            at = E.let((first + line) * self._line)
            E.prefetch(self.values, [page, head, at // width, at % width])

    def write(self, place: Place, head: E.Expr, row: E.Buffer) -> None:
        """Stores the float32 [D] of `row`, rounded to nearest even; int8 with a scale of its own."""
        factor = None if self.scales is None else self._put_scale(place, head, row)

        def put(e: E.Expr, lanes: int) -> None:
            value = E.load(row, [e], lanes)
            if factor is None:
                E.store_float(self.values, self._index(place, head, e), value, lanes, self._isa)
            else:
                code = E.round_to_int8(value * E.splat(factor, lanes), lanes)
                E.store(self.values, self._index(place, head, e), code, lanes)

        if self._is_keys:
            with E.serial(self.d) as e:
                put(e, 1)
        else:
            E.lanewise(self.d, self._isa, put)

    def _put_scale(self, place: Place, head: E.Expr, row: E.Buffer) -> E.Expr:
        """Stores the scale of a token; returns what its elements are multiplied with to become codes."""
        largest = E.let(E.largest_magnitude(row, self.d, self._isa))
        E.store(self.scales, [place[0], head, place[1]], largest * E.f32(1 / LARGEST_CODE))
        # a token of zeros has the scale 0 and codes 0; a subnormal maximum would make the factor infinite
        tiny = largest < E.f32(1e-30)
        return E.let(E.choose(tiny, E.f32(0), E.f32(LARGEST_CODE) / E.maximum(largest, E.f32(1e-30))))

    def _index(self, place: Place, head: E.Expr, e: E.Expr) -> list[E.Expr]:
        return [place[0], head, e, place[1]] if self._is_keys else [place[0], head, place[1], e]


def declare_pools(
    hkv: int, d: int, dtype: KvDtype, table: E.Buffer, isa: Isa, block: int = KV_BLOCK
) -> tuple[Pool, Pool]:
    """Declares the next parameters and returns keys and values.

    The parameters are cache_k [N, Hkv, D, block], cache_v [N, Hkv, block, D] and, for int8, scale_k and scale_v float32
    [N, Hkv, block].
    """
    if block % GRAIN:
        raise ValueError(f"a block of {block} positions is not a multiple of {GRAIN}")
    n = E.dynamic("n")
    shapes = {"k": (n, hkv, d, block), "v": (n, hkv, block, d)}
    values = [E.parameter(f"cache_{kind}", shape, dtype) for kind, shape in shapes.items()]
    scales = [E.parameter(f"scale_{kind}", (n, hkv, block), "float32") if dtype == "int8" else None for kind in shapes]
    return Pool(values[0], scales[0], table, isa, True), Pool(values[1], scales[1], table, isa, False)
