"""Attention for many queries per sequence, blocked with an online softmax (Dao et al., 2022, FlashAttention).

A task is one KV head of one sequence and a block of queries; with grouped queries its rows are all query heads of the
group, row = query * group + member, so that keys and values are converted once for all of them. For
each block of keys, with m the running maximum, l the running sum of exponentials and o the running output of a row:

    s = scale q k^T;  m' = max(m, max s);  p = exp(s - m');  a = exp(m - m')
    l = a l + sum p;  o = a o + p v;  m = m'

Both products are the register tile of the GEMM.
"""

from __future__ import annotations

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.key_bias import KeyBias
from xamc.targets.kernels.kv_pages import Pool
from xamc.targets.kernels.microkernel import FLOAT32, cut_rows, emit_tile, row_tiles, tile_size
from xamc.targets.kernels.threads import tasks
from xamc.targets.kernels.tiles import AttentionTiles

BLOCK_T = 64
"""Keys of a block."""

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


def query_block(group: int, isa: Isa, rows: int) -> int:
    """Queries of a task, for about `rows` rows."""
    tallest = row_tiles(isa)[0]
    return max(1, tallest * max(1, rows // tallest) // group)


class _Task:
    def __init__(
        self, isa: Isa, group: int, d: int, queries: int, scale: float, window: int | None, bias: KeyBias | None
    ) -> None:
        self.bias = bias
        self.isa, self.lanes, self.group, self.d = isa, isa.lanes, group, d
        self.vectors = tile_size(isa)[1]
        self.width = self.vectors * isa.lanes
        self.tiles = (row_tiles(isa)[0], 1)  # rows that fill no tile occur once per sequence
        self.padded = -(-d // self.width) * self.width
        self.max_rows = queries * group
        self.queries, self.scale, self.window = queries, scale, window

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
        state = E.scratch((self.max_rows, 2))  # m and l
        scores = E.scratch((self.max_rows, BLOCK_T))
        keys = E.scratch((d, BLOCK_T))
        values = E.scratch((BLOCK_T, self.padded))

        with E.serial(rows) as row:
            source = [i, E.let(first + row // self.group), E.let((head * self.group + row % self.group) * d)]

            def copy(e: E.Expr, width: int) -> None:
                value = E.load(q, [source[0], source[1], source[2] + e], width)
                E.store(query, [row, e], value * E.const(self.scale, width), width)

            E.lanewise(d, self.isa, copy)
            E.lanewise(self.padded, self.isa, lambda e, width: E.store(output, [row, e], E.const(0, width), width))
            E.store(state, [row, 0], E.f32(_NONE))
            E.store(state, [row, 1], E.f32(0))

        position = E.let(written + first)  # of the first query
        stop = E.let(position + rows // self.group)  # one past the last visible key

        def visit(block: E.Expr) -> None:
            t0 = E.let(block * BLOCK_T)
            count = E.let(E.minimum(stop - t0, E.i64(BLOCK_T)))
            self.widen(pool_k, keys, i, head, t0, count)
            if self.bias is not None:
                self.add_bias(self.bias, keys, head, t0, count)
            self.score(query, keys, scores, rows)
            self.soften(scores, state, output, rows, position, t0)
            self.convert(pool_v, values, i, head, t0, count)
            self.accumulate(scores, values, output, rows, count)

        with E.serial(E.let((stop + (BLOCK_T - 1)) // BLOCK_T)) as block:
            if self.window is None:
                visit(block)
            else:
                # Skipped, not started from: LLVM takes long over loops and addresses that begin at a maximum.
                E.when(block * BLOCK_T + BLOCK_T > position - (self.window - 1), lambda: visit(block))

        with E.serial(rows) as row:
            inverse = E.let(E.f32(1) / E.load(state, [row, 1]))
            target = [i, E.let(first + row // self.group), E.let((head * self.group + row % self.group) * d)]

            def finish(e: E.Expr, width: int) -> None:
                value = E.load(output, [row, e], width) * E.splat(inverse, width)
                E.store(y, [target[0], target[1], target[2] + e], value, width)

            E.lanewise(d, self.isa, finish)

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

    def score(self, query: E.Buffer, keys: E.Buffer, scores: E.Buffer, rows: E.Expr) -> None:
        lanes = self.lanes
        with E.serial(BLOCK_T // self.width) as part:

            def tile(row: E.Expr, height: int) -> None:
                sums = [
                    [E.Register(lanes, initial=E.const(0, lanes)) for _ in range(self.vectors)] for _ in range(height)
                ]
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
                        E.store(scores, [row + r, part * self.width + v * lanes], register.get(), lanes)

            cut_rows(rows, self.tiles, tile)

    def soften(
        self, scores: E.Buffer, state: E.Buffer, output: E.Buffer, rows: E.Expr, position: E.Expr, t0: E.Expr
    ) -> None:
        """Scores to exponentials, with masks where a row does not see the whole block; updates m, l and o."""
        lanes = self.lanes
        with E.serial(rows) as row:
            # The query's position, relative to the block.
            own = E.let(E.cast(position + row // self.group - t0, "int32", 1))
            self.mask(scores, row, own)
            tops = E.Register(lanes, initial=E.load(scores, [row, 0], lanes))
            for block in range(1, BLOCK_T // lanes):
                tops.set(E.maximum(tops.get(), E.load(scores, [row, block * lanes], lanes)))
            before = E.let(E.load(state, [row, 0]))
            top = E.let(E.maximum(before, E.reduce(tops.get(), lanes, E.maximum)))
            sums = E.Register(lanes, initial=E.const(0, lanes))
            with E.serial(BLOCK_T // lanes) as block:
                value = E.let(E.load(scores, [row, block * lanes], lanes) - E.splat(top, lanes))
                weight = E.exp(value, lanes)
                E.store(scores, [row, block * lanes], weight, lanes)
                sums.set(sums.get() + weight)
            shrink = E.exp(E.let(before - top), 1)
            E.store(state, [row, 0], top)
            total = E.reduce(sums.get(), lanes, E.add)
            E.store(state, [row, 1], E.fma(E.load(state, [row, 1]), shrink, total, 1))

            def scale(e: E.Expr, width: int) -> None:
                E.store(output, [row, e], E.load(output, [row, e], width) * E.splat(shrink, width), width)

            E.when(shrink < E.f32(1), lambda: E.lanewise(self.padded, self.isa, scale))

    def mask(self, scores: E.Buffer, row: E.Expr, own: E.Expr) -> None:
        """Hides the keys that a row does not see, in the blocks at the diagonal and at the window's edge."""
        lanes = self.lanes
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

    def accumulate(self, scores: E.Buffer, values: E.Buffer, output: E.Buffer, rows: E.Expr, count: E.Expr) -> None:
        lanes = self.lanes
        with E.serial(self.padded // self.width) as part:

            def tile(row: E.Expr, height: int) -> None:
                at = [[[row + r, part * self.width + v * lanes] for v in range(self.vectors)] for r in range(height)]
                sums = [[E.Register(lanes, initial=E.load(output, index, lanes)) for index in line] for line in at]
                emit_tile(
                    FLOAT32,
                    height,
                    self.vectors,
                    lanes,
                    count,
                    lambda r, k: E.load(scores, [row + r, k]),
                    lambda k, v: E.load(values, [k, part * self.width + v * lanes], lanes),
                    sums,
                )
                for line, registers in zip(at, sums):
                    for index, register in zip(line, registers):
                        E.store(output, index, register.get(), lanes)

            cut_rows(rows, self.tiles, tile)
