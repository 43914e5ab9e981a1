"""Attention for one query per sequence: bound by reading the cache, so each KV byte is read once per group.

The keys of a sequence are cut into at most `SPLITS` parts of whole tiles that are attended to in parallel and then
merged: with m the maximum of a part's scores, l the sum of exp(score - m) and o the weighted sum of its values, parts
combine as o = sum_i exp(m_i - m) o_i / sum_i exp(m_i - m) l_i (Dao et al., 2023, Flash-Decoding). Within a part the
same is done tile by tile (the online softmax of FlashAttention).
"""

from __future__ import annotations

from collections.abc import Callable

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.key_bias import KeyBias
from xamc.targets.kernels.kv_pages import Pool

TILE = 64
"""Keys attended to at a time: 16 KiB of float32 at D = 64."""

SPLITS = 32
"""Most parts of a sequence. With three KV heads 96 tasks keep two threads busy to within 2 %, one head 16 threads; more
parts would only write and read more partial results."""

_NONE = -3.0e38

Ask = Callable[[E.Expr, E.Expr], None]
"""Prefetches what belongs to a share's step."""


def emit_decode(
    q: E.Buffer,
    keys: Pool,
    values: Pool,
    write_index: E.Buffer,
    y: E.Buffer,
    isa: Isa,
    scale: float,
    window: int | None,
    bias: KeyBias | None = None,
) -> None:
    """Emits the body for S = 1; q and y [B, S, Hq * D], write_index [B]; `bias` of keys that are cached without."""
    b, hkv, d = q.shape[0], keys.heads, keys.d
    group = int(q.shape[2]) // (hkv * d)
    most = E.scratch((1,), "int64")
    E.store(most, [0], E.i64(0))
    with E.serial(b) as i:
        E.store(most, [0], E.maximum(E.load(most, [0]), Span(E.load(write_index, [i]), window).tiles))
    splits = E.let(E.minimum(E.load(most, [0]), E.i64(SPLITS)))
    rows = E.let(b * hkv)

    # TVM allocates at the start of the function, where only the shapes are known.
    partial = E.scratch(partial_shape(b * hkv, group, d))

    with E.parallel(rows * splits) as task:
        # Parts vary slowest, so that a thread's contiguous share has its part of every sequence, long or short.
        row, split = E.let(task % rows), E.let(task // rows)
        head, i = E.let(row % hkv), E.let(row // hkv)
        span = Span(E.load(write_index, [i]), window)
        part = Part(isa, q, E.let(head * group), keys, values, partial, i, head, task, scale, bias)
        part.attend(span, *span.share(split, splits))
    with E.serial(b * hkv * group) as row:
        i, qhead = E.let(row // (hkv * group)), E.let(row % (hkv * group))
        first, member = E.let(i * hkv + qhead // group), E.let(qhead % group)

        def write(e: E.Expr, value: E.Expr, lanes: int, i: E.Expr = i, qhead: E.Expr = qhead) -> None:
            E.store(y, [i, 0, qhead * d + e], value, lanes)

        merge_parts(partial, [first, member], rows, splits, write, isa)


def partial_shape(rows: E.Expr | int, group: int, d: int) -> tuple[E.Expr | int, int, int]:
    """Extents of the partial results of `rows` KV heads of sequences.

    Task t = split * rows + row has for each query head of its group o[0:D], the maximum of the scores and the sum of
    their exponentials.
    """
    return (rows * SPLITS, group, d + 2)


class Span:
    """The tiles that the query behind `cached` positions sees, its own position included.

    Attributes:
        start, stop: first visible position, and one past the last.
        first, tiles: first tile, and how many.
    """

    def __init__(self, cached: E.Expr, window: int | None) -> None:
        self.window = window
        self.stop = E.let(cached + 1)
        self.start = E.i64(0) if window is None else E.let(E.maximum(self.stop - window, E.i64(0)))
        self.first = E.let(self.start // TILE)
        self.tiles = E.let((self.stop + (TILE - 1)) // TILE - self.first)

    def share(self, split: E.Expr, splits: E.Expr) -> tuple[E.Expr, E.Expr]:
        """First tile of a part, and one past its last, counted from the span's first."""
        return E.let(split * self.tiles // splits), E.let((split + 1) * self.tiles // splits)


def merge_parts(
    partial: E.Buffer, place: list[E.Expr], rows: E.Expr | int, splits: E.Expr, write: E.LaneWriter, isa: Isa
) -> None:
    """Merges the parts of a query head; `place` is [task of its first part, member of its group]."""
    task, member = place
    d = int(partial.shape[2]) - 2

    def at(split: E.Expr, e: E.Expr | int) -> list[E.Expr | int]:
        return [task + split * rows, member, e]

    top = E.Register(1, initial=E.f32(_NONE))
    with E.serial(splits) as split:
        top.set(E.maximum(top.get(), E.load(partial, at(split, d))))
    weights = E.scratch((SPLITS,))
    total = E.Register(1, initial=E.f32(0))
    with E.serial(splits) as split:
        weight = E.exp(E.load(partial, at(split, d)) - top.get(), 1)
        E.store(weights, [split], weight)
        total.set(E.fma(weight, E.load(partial, at(split, d + 1)), total.get(), 1))
    inverse = E.let(E.f32(1) / total.get())

    def merge(e: E.Expr, lanes: int) -> None:
        value = E.Register(lanes, initial=E.const(0, lanes))
        with E.serial(splits) as split:
            weight = E.splat(E.load(weights, [split]), lanes)
            value.set(E.fma(weight, E.load(partial, at(split, e), lanes), value.get(), lanes))
        write(e, value.get() * E.splat(inverse, lanes), lanes)

    E.lanewise(d, isa, merge)


class Part:
    """One KV head's part of sequence i's keys, and the queries of its group.

    They lie from head `first` on in row `own` of q, row i unless it is given.
    """

    def __init__(
        self,
        isa: Isa,
        q: E.Buffer,
        first: E.Expr,
        keys: Pool,
        values: Pool,
        partial: E.Buffer,
        i: E.Expr,
        head: E.Expr,
        task: E.Expr,
        scale: float,
        bias: KeyBias | None = None,
        own: E.Expr | None = None,
    ) -> None:
        self.own = i if own is None else own
        self.isa, self.group, self.d, self.scale = isa, int(partial.shape[1]), keys.d, scale
        self.q, self.keys, self.values, self.partial = q, keys, values, partial
        self.i, self.head, self.task, self.first = i, head, task, first
        self.bias = bias

    def attend(self, span: Span, begin: E.Expr, end: E.Expr) -> None:
        """Attends to tiles [begin, end) of a span."""
        self.clear()
        if self.bias is not None:
            self.turned = E.scratch((self.group, self.d))
            with E.serial(self.group) as member:
                at = E.let((self.first + member) * self.d)
                self.bias.turned(
                    self.turned,
                    member,
                    self.head,
                    lambda e, lanes: E.load(self.q, [self.own, 0, at + e], lanes),
                    self.scale,
                )
        with E.serial(begin, end) as tile:
            t0 = E.let((span.first + tile) * TILE)
            count = E.let(E.minimum(span.stop - t0, E.i64(TILE)))
            hidden = None if span.window is None else E.let(E.maximum(span.start - t0, E.i64(0)))
            self.emit(t0, count, hidden, span.stop)

    def clear(self) -> None:
        with E.serial(self.group) as member:
            E.lanewise(self.d, self.isa, lambda e, lanes: self.put(member, e, E.const(0, lanes), lanes))
            self.put(member, self.d, E.f32(_NONE), 1)
            self.put(member, self.d + 1, E.f32(0), 1)

    def get(self, member: E.Expr, e: E.Expr | int, lanes: int = 1) -> E.Expr:
        return E.load(self.partial, [self.task, member, e], lanes)

    def put(self, member: E.Expr, e: E.Expr | int, value: E.Expr, lanes: int) -> None:
        E.store(self.partial, [self.task, member, e], value, lanes)

    def emit(self, t0: E.Expr, count: E.Expr, hidden: E.Expr | None, stop: E.Expr) -> None:
        """Attends to positions [t0, t0 + count), of which the first `hidden` lie before the window."""
        scores = E.scratch((self.group, TILE))
        shrinks = E.scratch((self.group,))
        self.emit_scores(scores, t0, count)
        if self.bias is not None:
            self.emit_bias(self.bias, scores, t0, count)
        self.emit_softmax(scores, shrinks, t0, count, hidden)
        self.emit_values(scores, shrinks, t0, count, stop)

    def asks(self, pool: Pool, position: E.Expr, shares: int, steps: int) -> Ask:
        """What asks for the tile at `position`, for a loop of `steps` steps that runs `shares` times.

        The processor's own prefetcher starts anew at every block and every page. A line or two at every step leave it
        to the products to hide them: more at once would wait for each other, and the products for them.
        """
        page, _ = pool.place(self.i, position)

        def ask(share: E.Expr, step: E.Expr) -> None:
            lines = pool.lines // (shares * steps)
            if pool.block == TILE and lines:
                pool.prefetch(page, self.head, E.let((share * steps + step) * lines), lines)

        return ask

    def emit_scores(self, scores: E.Buffer, t0: E.Expr, count: E.Expr) -> None:
        """scores[g, t] = scale q_g k_t; beyond `count` whatever the cache holds, which is masked afterwards."""
        keys, lanes = self.keys, min(self.isa.lanes, self.keys.block)
        tile, vectors = tile_of(self.group, TILE // lanes, self.isa)
        last = E.let((count - 1) // lanes)
        with E.serial(E.let(last // vectors + 1)) as part:
            # surplus vectors repeat the last one
            first = [E.let(E.minimum(part * vectors + v, last)) for v in range(vectors)]
            places = [keys.place(self.i, E.let(t0 + index * lanes)) for index in first]
            outers, parts = self.group // tile, TILE // lanes // vectors
            ask = self.asks(self.values, t0, parts * outers, self.d)
            with E.serial(outers) as outer:
                queries = [E.let((self.first + outer * tile + g) * self.d) for g in range(tile)]

                def finish(g: int, v: int, total: E.Expr) -> None:
                    factor = E.const(self.scale, lanes)
                    if keys.scales is not None:
                        factor = factor * keys.scale(places[v], self.head, lanes)
                    E.store(scores, [outer * tile + g, (part * vectors + v) * lanes], total * factor, lanes)

                sums = [[E.Register(lanes, initial=E.const(0, lanes)) for _ in range(vectors)] for _ in range(tile)]
                with E.serial(self.d) as e:
                    ask(E.let(part * outers + outer), e)
                    accumulate(
                        sums,
                        lambda g: E.load(self.q, [self.own, 0, queries[g] + e]),
                        lambda v: keys.load(places[v], self.head, e, lanes),
                        lanes,
                    )
                each(sums, finish)

    def emit_bias(self, bias: KeyBias, scores: E.Buffer, t0: E.Expr, count: E.Expr) -> None:
        """scores[g, t] += what the bias of the key at t0 + t adds."""
        with E.serial(count) as t, E.serial(self.group) as member:
            added = bias.score(self.turned, member, E.let(t0 + t))
            E.store(scores, [member, t], E.load(scores, [member, t]) + added)

    def emit_softmax(
        self, scores: E.Buffer, shrinks: E.Buffer, t0: E.Expr, count: E.Expr, hidden: E.Expr | None
    ) -> None:
        """Scores to exponentials (times the values' scales); updates m and l, and how much o shrinks."""
        lanes = self.isa.lanes
        blocks = E.let((count + (lanes - 1)) // lanes)
        with E.serial(self.group) as member:
            with E.serial(count, blocks * lanes) as t:
                E.store(scores, [member, t], E.f32(_NONE))
            if hidden is not None:
                with E.serial(hidden) as t:
                    E.store(scores, [member, t], E.f32(_NONE))
            before = E.let(self.get(member, self.d))
            tops = E.Register(lanes, initial=E.splat(before, lanes))
            with E.serial(blocks) as block:
                tops.set(E.maximum(tops.get(), E.load(scores, [member, block * lanes], lanes)))
            top = E.reduce(tops.get(), lanes, E.maximum)
            sums = E.Register(lanes, initial=E.const(0, lanes))
            with E.serial(blocks) as block:
                weight = E.exp(E.let(E.load(scores, [member, block * lanes], lanes) - E.splat(top, lanes)), lanes)
                E.store(scores, [member, block * lanes], weight, lanes)
                sums.set(sums.get() + weight)
            shrink = E.exp(E.let(before - top), 1)
            E.store(shrinks, [member], shrink)
            self.put(member, self.d, top, 1)
            total = E.reduce(sums.get(), lanes, E.add)
            self.put(member, self.d + 1, E.fma(self.get(member, self.d + 1), shrink, total, 1), 1)
        if self.values.scales is not None:
            width = min(lanes, self.values.block)
            with E.serial(E.let((count + (width - 1)) // width)) as run:
                place = self.values.place(self.i, E.let(t0 + run * width))
                factor = E.let(self.values.scale(place, self.head, width))
                with E.serial(self.group) as member:
                    at = [member, run * width]
                    E.store(scores, at, E.load(scores, at, width) * factor, width)

    def emit_values(self, scores: E.Buffer, shrinks: E.Buffer, t0: E.Expr, count: E.Expr, stop: E.Expr) -> None:
        """o_g = shrink_g o_g + sum_t p[g, t] v_t, a register tile of queries and elements at a time."""
        lanes, whole = self.isa.lanes, self.d // self.isa.lanes
        tile, vectors = tile_of(self.group, whole, self.isa)
        with E.serial(self.group // tile) as outer:
            members = [E.let(outer * tile + g) for g in range(tile)]
            if whole:
                blocks = whole // vectors
                following = E.let(E.minimum(t0 + TILE, stop - 1))
                ask = self.asks(self.keys, following, blocks * (self.group // tile), TILE)
                with E.serial(blocks) as block:
                    share = E.let(outer * blocks + block)
                    first = E.let(block * (lanes * vectors))
                    self.weigh(scores, shrinks, members, first, vectors, lanes, t0, count, lambda t: ask(share, t))
            if self.d % lanes:
                with E.serial(whole * lanes, self.d) as e:
                    self.weigh(scores, shrinks, members, e, 1, 1, t0, count, lambda t: None)

    def weigh(
        self,
        scores: E.Buffer,
        shrinks: E.Buffer,
        members: list[E.Expr],
        first: E.Expr,
        vectors: int,
        lanes: int,
        t0: E.Expr,
        count: E.Expr,
        ask: Callable[[E.Expr], None],
    ) -> None:
        """Elements [first, first + vectors * lanes) of the outputs of `members`."""

        def before(member: E.Expr, v: int) -> E.Expr:
            return self.get(member, first + v * lanes, lanes) * E.splat(E.load(shrinks, [member]), lanes)

        sums = [[E.Register(lanes, initial=before(member, v)) for v in range(vectors)] for member in members]
        run = min(self.values.block, TILE)
        with E.serial(E.let((count + (run - 1)) // run)) as index:
            page, offset = self.values.place(self.i, E.let(t0 + index * run))
            with E.serial(E.let(E.minimum(count - index * run, E.i64(run)))) as t:
                ask(E.let(index * run + t))
                accumulate(
                    sums,
                    lambda g: E.load(scores, [members[g], index * run + t]),
                    lambda v: self.values.load((page, offset + t), self.head, first + v * lanes, lanes),
                    lanes,
                )
        each(sums, lambda g, v, total: self.put(members[g], first + v * lanes, total, lanes))


def tile_of(group: int, vectors: int, isa: Isa) -> tuple[int, int]:
    """Queries and vectors of a register tile that divide `group` and `vectors`.

    Chosen for the fewest instructions per multiply-add, with about three for a vector (load and widen) and one for the
    broadcast of a query's factor.
    """
    room = isa.registers - 4
    tiles = [
        (queries, width)
        for queries in range(1, min(group, room) + 1)
        for width in range(1, max(vectors, 1) + 1)
        if group % queries == 0 and max(vectors, 1) % width == 0 and queries * width <= room
    ]
    return min(tiles, key=lambda tile: ((3 * tile[1] + tile[0]) / (tile[0] * tile[1]), -tile[0] * tile[1]))


def accumulate(
    sums: list[list[E.Register]],
    factor: Callable[[int], E.Expr],
    vector: Callable[[int], E.Expr],
    lanes: int,
) -> None:
    """sums[g][v] += factor(g) * vector(v), the vectors read once for all g."""
    values = [E.let(vector(v)) for v in range(len(sums[0]))]
    for g, registers in enumerate(sums):
        weight = E.let(E.splat(factor(g), lanes))
        for value, register in zip(values, registers):
            register.set(E.fma(weight, value, register.get(), lanes))


def each(sums: list[list[E.Register]], finish: Callable[[int, int, E.Expr], None]) -> None:
    """Hands every sum to `finish(g, v, sum)`."""
    for g, registers in enumerate(sums):
        for v, register in enumerate(registers):
            finish(g, v, register.get())
