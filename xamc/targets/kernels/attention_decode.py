"""Attention for one query per sequence: bound by reading the cache, so each KV byte is read once per group.

The keys of a sequence are cut into splits that are attended to independently (in parallel over sequence, KV head and
split) and then merged: with m the maximum of a split's scores, l the sum of exp(score - m) and o the weighted sum of
its values, splits combine as o = sum_i exp(m_i - m) o_i / sum_i exp(m_i - m) l_i (Dao et al., 2023, Flash-Decoding).
"""

from __future__ import annotations

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import Isa

SPLIT = 64
"""Keys of a split: 16 KiB of float32 at D = 64, and enough tasks for two threads from 65 tokens on."""


def emit_decode(
    q: E.Buffer,
    cache_k: E.Buffer,
    cache_v: E.Buffer,
    write_index: E.Buffer,
    y: E.Buffer,
    isa: Isa,
    scale: float,
    window: int | None,
) -> None:
    """Emits the body for S = 1; q and y [B, S, Hq * D], caches [B, Hkv, C, D], write_index [B]."""
    b, c = q.shape[0], cache_k.shape[2]
    hkv, d = int(cache_k.shape[1]), int(cache_k.shape[3])
    group = int(q.shape[2]) // (hkv * d)

    longest = E.scratch((1,), "int64")
    E.store(longest, [0], E.i64(0))
    with E.serial(b) as i:
        E.store(longest, [0], E.maximum(E.load(longest, [0]), E.load(write_index, [i]) + 1))
    keys = E.let(E.load(longest, [0]) if window is None else E.minimum(E.load(longest, [0]), E.i64(window)))
    splits = E.let((keys + (SPLIT - 1)) // SPLIT)
    tasks = E.let(b * hkv * splits)

    # Per query head of a task: o[0:D], the maximum and the sum of the exponentials. TVM allocates at the start of
    # the function, where only the shapes are known, so the capacity bounds the number of splits.
    bound = c if window is None else E.minimum(c, window)
    partial = E.scratch((b * hkv * ((bound + (SPLIT - 1)) // SPLIT), group, d + 2))

    def attend(task: E.Expr) -> None:
        row, split = E.let(task // splits), E.let(task % splits)
        head, i = E.let(row % hkv), E.let(row // hkv)
        stop = E.let(E.load(write_index, [i]) + 1)
        start = E.i64(0) if window is None else E.let(E.maximum(stop - window, E.i64(0)))
        first = E.let(start + split * SPLIT)
        count = E.let(E.minimum(stop - first, E.i64(SPLIT)))
        task_ = _Task(isa, q, cache_k, cache_v, partial, i, head, group, d, first, count, task, scale)
        E.when(count > 0, task_.emit, task_.emit_empty)

    def combine(index: E.Expr) -> None:
        i, qhead = E.let(index // (hkv * group)), E.let(index % (hkv * group))
        first = E.let((i * hkv + qhead // group) * splits)
        member = E.let(qhead % group)
        top = E.Register(1, initial=E.f32(-3.0e38))
        with E.serial(splits) as split:
            top.set(E.maximum(top.get(), E.load(partial, [first + split, member, d])))
        total = E.Register(1, initial=E.f32(0))
        with E.serial(splits) as split:
            weight = E.exp(E.load(partial, [first + split, member, d]) - top.get(), 1)
            E.store(partial, [first + split, member, d], weight)
            total.set(E.fma(weight, E.load(partial, [first + split, member, d + 1]), total.get(), 1))
        inverse = E.let(E.f32(1) / total.get())

        def merge(e: E.Expr, lanes: int) -> None:
            value = E.Register(lanes, initial=E.const(0, lanes))
            with E.serial(splits) as split:
                weight = E.splat(E.load(partial, [first + split, member, d]), lanes)
                value.set(E.fma(weight, E.load(partial, [first + split, member, e], lanes), value.get(), lanes))
            E.store(y, [i, 0, qhead * d + e], value.get() * E.splat(inverse, lanes), lanes)

        E.lanewise(d, isa, merge)

    with E.parallel(tasks) as task:
        attend(task)
    with E.serial(b * hkv * group) as row:
        combine(row)


class _Task:
    """One KV head's keys [first, first + count) and the queries of its group."""

    def __init__(
        self,
        isa: Isa,
        q: E.Buffer,
        cache_k: E.Buffer,
        cache_v: E.Buffer,
        partial: E.Buffer,
        i: E.Expr,
        head: E.Expr,
        group: int,
        d: int,
        first: E.Expr,
        count: E.Expr,
        task: E.Expr,
        scale: float,
    ) -> None:
        self.isa, self.group, self.d, self.scale = isa, group, d, scale
        self.q, self.cache_k, self.cache_v, self.partial = q, cache_k, cache_v, partial
        self.i, self.head, self.first, self.count, self.task = i, head, first, count, task

    def emit_empty(self) -> None:
        with E.serial(self.group) as member:
            E.lanewise(self.d, self.isa, lambda e, lanes: self.put(member, e, E.const(0, lanes), lanes))
            self.put(member, self.d, E.f32(-3.0e38), 1)
            self.put(member, self.d + 1, E.f32(0), 1)

    def put(self, member: E.Expr, e: E.Expr, value: E.Expr, lanes: int) -> None:
        E.store(self.partial, [self.task, member, e], value, lanes)

    def emit(self) -> None:
        scores = E.scratch((self.group, SPLIT))
        self.emit_scores(scores)
        self.emit_softmax(scores)
        self.emit_values(scores)

    def emit_scores(self, scores: E.Buffer) -> None:
        """scores[g, t] = scale q_g k_t; the last block's surplus is a copy of the last key and masked afterwards."""
        lanes, d = self.isa.lanes, self.d
        last = E.let(self.count - 1)
        with E.serial(E.let((self.count + (lanes - 1)) // lanes)) as block:
            at = [E.let(self.first + E.minimum(block * lanes + t, last)) for t in range(lanes)]
            if self.group == 1:
                self.dot(scores, 0, block, lambda t, e, width: self.key(at[t], e, width))
            else:
                # Converted once, used by every query of the group.
                keys = E.scratch((lanes, d))
                for t in range(lanes):
                    E.lanewise(d, self.isa, lambda e, width: E.store(keys, [t, e], self.key(at[t], e, width), width))  # noqa: B023
                with E.serial(self.group) as member:
                    self.dot(scores, member, block, lambda t, e, width: E.load(keys, [t, e], width))

    def key(self, position: E.Expr, e: E.Expr, lanes: int) -> E.Expr:
        return E.load_float(self.cache_k, [self.i, self.head, position, e], lanes, self.isa)

    def dot(self, scores: E.Buffer, member: E.Expr | int, block: E.Expr, key: E.KeyReader) -> None:
        lanes, d = self.isa.lanes, self.d
        sums = [E.Register(lanes, initial=E.const(0, lanes)) for _ in range(lanes)]
        base = E.let((self.head * self.group + member) * d)
        with E.serial(d // lanes) as c:
            query = E.let(E.load(self.q, [self.i, 0, base + c * lanes], lanes))
            for t, register in enumerate(sums):
                register.set(E.fma(query, key(t, c * lanes, lanes), register.get(), lanes))
        result = E.gather_sums([register.get() for register in sums])
        store = E.Register(lanes, initial=result)
        if d % lanes:
            with E.serial(d // lanes * lanes, d) as e:
                query = E.let(E.load(self.q, [self.i, 0, base + e]))
                for t in range(lanes):
                    E.store(store.buffer, [t], E.fma(query, key(t, e, 1), E.load(store.buffer, [t]), 1))
        E.store(scores, [member, block * lanes], store.get() * E.const(self.scale, lanes), lanes)

    def emit_softmax(self, scores: E.Buffer) -> None:
        lanes = self.isa.lanes
        blocks = E.let((self.count + (lanes - 1)) // lanes)
        with E.serial(self.group) as member:
            with E.serial(self.count, blocks * lanes) as t:
                E.store(scores, [member, t], E.f32(-3.0e38))
            tops = E.Register(lanes, initial=E.const(-3.0e38, lanes))
            with E.serial(blocks) as block:
                tops.set(E.maximum(tops.get(), E.load(scores, [member, block * lanes], lanes)))
            top = E.reduce(tops.get(), lanes, E.maximum)
            sums = E.Register(lanes, initial=E.const(0, lanes))
            with E.serial(blocks) as block:
                weight = E.exp(E.let(E.load(scores, [member, block * lanes], lanes) - E.splat(top, lanes)), lanes)
                E.store(scores, [member, block * lanes], weight, lanes)
                sums.set(sums.get() + weight)
            self.put(member, self.d, top, 1)
            self.put(member, self.d + 1, E.reduce(sums.get(), lanes, E.add), 1)

    def emit_values(self, scores: E.Buffer) -> None:
        """o_g = sum_t p[g, t] v_t, a register tile of queries and elements at a time."""
        lanes, d = self.isa.lanes, self.d
        tile = max(size for size in (1, 2, 3, 4) if self.group % size == 0)
        budget = max(1, (self.isa.registers - 4) // tile)
        vectors = max((size for size in range(1, budget + 1) if (d // lanes) % size == 0), default=1)
        with E.serial(self.group // tile) as outer:
            members = [E.let(outer * tile + g) for g in range(tile)]
            if d >= lanes:
                with E.serial(d // (lanes * vectors)) as block:
                    self.weighted(scores, members, E.let(block * (lanes * vectors)), vectors, lanes)
            if d % lanes:
                with E.serial(d // lanes * lanes, d) as e:
                    self.weighted(scores, members, e, 1, 1)

    def weighted(self, scores: E.Buffer, members: list[E.Expr], first: E.Expr, vectors: int, lanes: int) -> None:
        sums = [[E.Register(lanes, initial=E.const(0, lanes)) for _ in range(vectors)] for _ in members]
        with E.serial(self.count) as t:
            index = [self.i, self.head, self.first + t]
            values = [
                E.let(E.load_float(self.cache_v, [*index, first + v * lanes], lanes, self.isa)) for v in range(vectors)
            ]
            for member, registers in zip(members, sums):
                weight = E.let(E.splat(E.load(scores, [member, t]), lanes))
                for value, register in zip(values, registers):
                    register.set(E.fma(weight, value, register.get(), lanes))
        for member, registers in zip(members, sums):
            for v, register in enumerate(registers):
                self.put(member, first + v * lanes, register.get(), lanes)
