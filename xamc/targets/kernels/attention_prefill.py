"""Attention for many queries per sequence, blocked with an online softmax (Dao et al., 2022, FlashAttention).

A task is one KV head of one sequence and a block of queries; with grouped queries its rows are all query heads of the
group, row = query * group + member, so that keys and values are converted once for all of them. For
each block of keys, with m the running maximum, l the running sum of exponentials and o the running output of a row:

    s = scale / ln 2 q k^T;  m' = max(m, max s);  p = 2^(s - m');  a = 2^(m - m')
    l = a l + sum p;  o = a o + p v;  m = m'

Both products are the register tile of the GEMM. A tile's rows go through all of it before the next tile's, so that
their scores and outputs are in the first-level cache beside the keys and values; rows that fill no tile go to smaller
ones, the last of which is filled up with rows of zeros.
"""

from __future__ import annotations

from collections.abc import Callable

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.exp2 import exp2_of_negative
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.key_bias import KeyBias
from xamc.targets.kernels.kv_pages import Pool
from xamc.targets.kernels.microkernel import FLOAT32, emit_tile, tile_size
from xamc.targets.kernels.threads import tasks
from xamc.targets.kernels.tiles import AttentionTiles

BLOCK_T = 64
"""Keys of a block."""
_LOG2_E = 1.4426950408889634

# A row that has seen no key yet has maximum _NONE; masked scores lie so far below that their exponential is zero.
_NONE = -1.0e30
_MASKED = -3.0e38


def emit_prefill(
    q: E.Buffer,
    pool_k: Pool,
    pool_v: Pool,
    write_index: E.Buffer,
    y: E.Buffer,
    isa: Isa,
    scale: float,
    window: int | None,
    bias: KeyBias | None,
    tiles: AttentionTiles,
) -> None:
    """Emits the body; q and y [B, S, Hq * D], write_index [B]; `bias` of keys that are cached without."""
    b, s, hkv, d = q.shape[0], q.shape[1], pool_k.heads, pool_k.d
    group = int(q.shape[2]) // (hkv * d)
    queries = query_block(group, isa, tiles.rows)
    blocks = E.let((s + (queries - 1)) // queries)
    with tasks(b * hkv * blocks) as index:
        # Late queries see more keys: the long tasks first, so that the short ones even out when threads are ready.
        i, head = E.let(index // hkv % b), E.let(index % hkv)
        block = E.let(blocks - 1 - index // (b * hkv))
        task = _Task(isa, group, d, queries, scale, window, bias)
        task.emit(q, pool_k, pool_v, y, i, head, E.let(block * queries), s, E.let(E.load(write_index, [i])))


def query_block(group: int, isa: Isa, rows: int | None) -> int:
    """Queries of a task, for about `rows` rows: as many as fill whole tiles, or nearly."""
    tallest = row_heights(isa)[0]
    rows = rows or (112 if isa.lanes == 16 else 48)
    return max(1, tallest * max(1, rows // tallest) // group)


def row_heights(isa: Isa) -> tuple[int, int]:
    """Heights of the tile and of that for the rows that are left, whose sums still keep the multiply-adds busy."""
    tallest, vectors = tile_size(isa)
    return tallest, min(tallest, 8 // vectors)


class _Task:
    def __init__(
        self, isa: Isa, group: int, d: int, queries: int, scale: float, window: int | None, bias: KeyBias | None
    ) -> None:
        self.bias = bias
        self.isa, self.lanes, self.group, self.d = isa, isa.lanes, group, d
        self.vectors = tile_size(isa)[1]
        self.width = self.vectors * isa.lanes
        self.heights = row_heights(isa)
        self.padded = -(-d // self.width) * self.width
        self.max_rows = queries * group + self.heights[1] - 1
        self.queries, self.scale, self.window = queries, scale * _LOG2_E, window

    def emit(
        self,
        q: E.Buffer,
        pool_k: Pool,
        pool_v: Pool,
        y: E.Buffer,
        i: E.Expr,
        head: E.Expr,
        first: E.Expr,
        s: E.Expr,
        written: E.Expr,
    ) -> None:
        """Attends with queries [first, first + queries) of sequence i, KV head `head`."""
        d = self.d
        rows = E.let(E.minimum(s - first, self.queries) * self.group)
        query = E.scratch((self.max_rows, d))
        output = E.scratch((self.max_rows, self.padded))
        state = E.scratch((2, self.max_rows))  # m and l
        keys = E.scratch((d, BLOCK_T))
        values = E.scratch((BLOCK_T, self.padded))
        self.scores = E.scratch((self.heights[0], BLOCK_T))
        self.shrinks = E.scratch((-(-self.heights[0] // self.lanes) * self.lanes,))

        with E.serial(self.filled(rows)) as row:
            E.lanewise(self.padded, self.isa, lambda e, width: E.store(output, [row, e], E.const(0, width), width))
            E.store(state, [0, row], E.f32(_NONE))
            E.store(state, [1, row], E.f32(0))

            def copy_row() -> None:
                source = [i, E.let(first + row // self.group), E.let((head * self.group + row % self.group) * d)]

                def copy(e: E.Expr, width: int) -> None:
                    value = E.load(q, [source[0], source[1], source[2] + e], width)
                    E.store(query, [row, e], value * E.const(self.scale, width), width)

                E.lanewise(d, self.isa, copy)

            def clear_row() -> None:
                E.lanewise(d, self.isa, lambda e, width: E.store(query, [row, e], E.const(0, width), width))

            E.when(row < rows, copy_row, clear_row)

        position = E.let(written + first)  # of the first query
        stop = E.let(position + rows // self.group)  # one past the last visible key

        def visit(block: E.Expr) -> None:
            t0 = E.let(block * BLOCK_T)
            count = E.let(E.minimum(stop - t0, E.i64(BLOCK_T)))
            self.widen(pool_k, keys, i, head, t0, count)
            if self.bias is not None:
                self.add_bias(self.bias, keys, head, t0, count)
            self.convert(pool_v, values, i, head, t0, count)

            def tile(row: E.Expr, height: int) -> None:
                last = E.let(position + (row + (height - 1)) // self.group - t0)  # key of its last row
                seen = E.let(E.minimum(last + 1, count))

                def attend() -> None:
                    self.score(query, keys, row, height, seen)
                    self.soften(state, row, height, position, t0)
                    self.accumulate(values, output, row, height, seen)

                E.when(seen > 0, attend)

            self.cut_rows(rows, tile)

        with E.serial(E.let((stop + (BLOCK_T - 1)) // BLOCK_T)) as block:
            if self.window is None:
                visit(block)
            else:
                # Skipped, not started from: LLVM takes long over loops and addresses that begin at a maximum.
                E.when(block * BLOCK_T + BLOCK_T > position - (self.window - 1), lambda: visit(block))

        with E.serial(rows) as row:
            inverse = E.let(E.f32(1) / E.load(state, [1, row]))
            target = [i, E.let(first + row // self.group), E.let((head * self.group + row % self.group) * d)]

            def finish(e: E.Expr, width: int) -> None:
                value = E.load(output, [row, e], width) * E.splat(inverse, width)
                E.store(y, [target[0], target[1], target[2] + e], value, width)

            E.lanewise(d, self.isa, finish)

    def filled(self, rows: E.Expr) -> E.Expr:
        """Rows with those that fill the last small tile up."""
        tallest, small = self.heights
        done = E.let(rows // tallest * tallest)
        return E.let(done + (rows - done + (small - 1)) // small * small)

    def cut_rows(self, rows: E.Expr, body: Callable[[E.Expr, int], None]) -> None:
        """Runs `body(first row, height)` over all rows: whole tiles, then small ones, the last perhaps past the end."""
        tallest, small = self.heights
        tiles = E.let(rows // tallest)
        with E.serial(tiles) as index:
            body(E.let(index * tallest), tallest)
        done = E.let(tiles * tallest)
        with E.serial(E.let((self.filled(rows) - done) // small)) as index:
            body(E.let(done + index * small), small)

    def widen(self, pool: Pool, keys: E.Buffer, i: E.Expr, head: E.Expr, t0: E.Expr, count: E.Expr) -> None:
        """keys[d, t] = k[t0 + t, d]; beyond the last key whatever the cache holds, which is masked later."""
        run = min(pool.block, BLOCK_T)
        lanes = min(self.lanes, run)
        last = E.let((count - 1) // run)
        with E.serial(BLOCK_T // run) as part:
            page, offset = pool.place(i, E.let(t0 + E.minimum(part, last) * run))
            with E.serial(self.d) as e:
                for t in range(0, run, lanes):
                    place = (page, offset + t)
                    value = pool.load(place, head, e, lanes)
                    if pool.scales is not None:
                        value = value * pool.scale(place, head, lanes)
                    E.store(keys, [e, part * run + t], value, lanes)

    def add_bias(self, bias: KeyBias, keys: E.Buffer, head: E.Expr, t0: E.Expr, count: E.Expr) -> None:
        """keys[d, t] += the rotated bias at position t0 + t."""
        rotated = E.scratch((self.d,))
        with E.serial(count) as t:
            bias.rotated(rotated, head, E.let(t0 + t))
            with E.serial(self.d) as e:
                E.store(keys, [e, t], E.load(keys, [e, t]) + E.load(rotated, [e]))

    def score(self, query: E.Buffer, keys: E.Buffer, row: E.Expr, height: int, seen: E.Expr) -> None:
        """scores[r, t] of a tile's rows from `row` on, for the first `seen` keys of the block and some behind them."""
        lanes = self.lanes
        with E.serial(E.let((seen + (self.width - 1)) // self.width)) as part:
            sums = [[E.Register(lanes, initial=E.const(0, lanes)) for _ in range(self.vectors)] for _ in range(height)]
            emit_tile(
                FLOAT32,
                height,
                self.vectors,
                lanes,
                self.d,
                lambda r, k: E.load(query, [row + r, k]),
                lambda k, v: E.load(keys, [k, part * self.width + v * lanes], lanes),
                sums,
            )
            for r, registers in enumerate(sums):
                for v, register in enumerate(registers):
                    E.store(self.scores, [r, part * self.width + v * lanes], register.get(), lanes)

    def soften(self, state: E.Buffer, row: E.Expr, height: int, position: E.Expr, t0: E.Expr) -> None:
        """Scores of a tile's rows to powers of two, with masks where a row does not see the whole block.

        Updates m and l, and leaves in `shrinks` what the rows' outputs are multiplied with.
        """
        lanes, scores = self.lanes, self.scores
        differences = E.scratch((self.shrinks.shape[0],))
        with E.serial(height) as r:
            # The query's position, relative to the block.
            self.mask(r, E.let(E.cast(position + (row + r) // self.group - t0, "int32", 1)))
            tops = E.Register(lanes, initial=E.load(scores, [r, 0], lanes))
            for block in range(1, BLOCK_T // lanes):
                tops.set(E.maximum(tops.get(), E.load(scores, [r, block * lanes], lanes)))
            before = E.let(E.load(state, [0, row + r]))
            top = E.let(E.maximum(before, E.reduce(tops.get(), lanes, E.maximum)))
            E.store(state, [0, row + r], top)
            E.store(differences, [r], before - top)
        for block in range(0, height, lanes):
            E.store(self.shrinks, [block], exp2_of_negative(E.load(differences, [block], lanes), lanes), lanes)
        with E.serial(height) as r:
            top = E.let(E.splat(E.load(state, [0, row + r]), lanes))
            sums = E.Register(lanes, initial=E.const(0, lanes))
            for block in range(BLOCK_T // lanes):
                weight = exp2_of_negative(E.load(scores, [r, block * lanes], lanes) - top, lanes)
                E.store(scores, [r, block * lanes], weight, lanes)
                sums.set(sums.get() + weight)
            total = E.reduce(sums.get(), lanes, E.add)
            shrunk = E.fma(E.load(state, [1, row + r]), E.load(self.shrinks, [r]), total, 1)
            E.store(state, [1, row + r], shrunk)

    def mask(self, row: E.Expr, own: E.Expr) -> None:
        """Hides the keys that a row does not see, in the blocks at the diagonal and at the window's edge."""
        lanes, scores = self.lanes, self.scores
        partial = own < BLOCK_T - 1
        if self.window is not None:
            partial = E.either(partial, own >= self.window)

        def hide() -> None:
            with E.serial(BLOCK_T // lanes) as block:
                t = E.let(E.ramp(block * lanes, lanes))
                score = E.load(scores, [row, block * lanes], lanes)
                score = E.select(t <= E.splat(own, lanes), score, E.const(_MASKED, lanes))
                if self.window is not None:
                    score = E.select(t > E.splat(own - self.window, lanes), score, E.const(_MASKED, lanes))
                E.store(scores, [row, block * lanes], score, lanes)

        E.when(partial, hide)

    def convert(self, pool: Pool, values: E.Buffer, i: E.Expr, head: E.Expr, t0: E.Expr, count: E.Expr) -> None:
        """values[t, e] = v[t0 + t, e] as float32, padded with zeros to whole tiles."""
        with E.serial(count) as t:
            place = pool.place(i, E.let(t0 + t))
            scale = None if pool.scales is None else E.let(pool.scale(place, head))

            def copy(e: E.Expr, width: int) -> None:
                value = pool.load(place, head, e, width)
                E.store(values, [t, e], value if scale is None else value * E.splat(scale, width), width)

            E.lanewise(self.d, self.isa, copy)
            if self.padded > self.d:
                with E.serial(self.d, self.padded) as e:
                    E.store(values, [t, e], E.f32(0))

    def accumulate(self, values: E.Buffer, output: E.Buffer, row: E.Expr, height: int, seen: E.Expr) -> None:
        """o = a o + p v for a tile's rows from `row` on and the first `seen` keys of the block."""
        lanes = self.lanes
        with E.serial(self.padded // self.width) as part:
            at = [[[row + r, part * self.width + v * lanes] for v in range(self.vectors)] for r in range(height)]
            shrinks = [E.splat(E.load(self.shrinks, [r]), lanes) for r in range(height)]
            sums = [
                [E.Register(lanes, initial=E.load(output, index, lanes) * shrink) for index in line]
                for line, shrink in zip(at, shrinks)
            ]
            emit_tile(
                FLOAT32,
                height,
                self.vectors,
                lanes,
                seen,
                lambda r, k: E.load(self.scores, [r, k]),
                lambda k, v: E.load(values, [k, part * self.width + v * lanes], lanes),
                sums,
            )
            for line, registers in zip(at, sums):
                for index, register in zip(line, registers):
                    E.store(output, index, register.get(), lanes)
