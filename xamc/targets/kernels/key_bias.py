"""Key biases outside the KV cache: an 8-bit cache holds the keys without them, and attention adds what they score.

A key is R(t)(W x + b) with RoPE's rotation R(t) of its position. Where b has a few large channels, as Qwen2's have, it
would take most of the codes' range from what differs between tokens. R(t) b is the same for every token at position t
and needs no cache. With (b1, b2) the halves of a head's bias and (q1, q2) those of a rotated query, its score is

    q R(t) b = (q1 b1 + q2 b2) cos(t) + (q2 b1 - q1 b2) sin(t)

summed over the D/2 pairs, with the rows of RoPE's own tables as cos(t) and sin(t). docs/kernels.md has the measurement.
"""

from __future__ import annotations

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import Isa


class KeyBias:
    """The biases of a layer's keys, and the tables that rotate them. Position t of every sequence lies in slot t."""

    def __init__(self, qkv: E.Buffer, hq: int, d: int, angles: tuple[E.Buffer, E.Buffer], isa: Isa) -> None:
        """Args:
        qkv: float32 [(Hq + 2 Hkv) * D], the bias of the projection of queries, keys and values.
        hq: query heads Hq.
        d: elements D of a head.
        angles: cos and sin, float32 [R, D/2].
        isa: the level to generate for.
        """
        self._qkv, self._hq, self._d, self._isa = qkv, hq, d, isa
        self._cos, self._sin = angles

    def halves(self, head: E.Expr, e: E.Expr, lanes: int) -> tuple[E.Expr, E.Expr]:
        """Elements e, ... and D/2 + e, ... of a KV head's bias."""
        first = E.let((self._hq + head) * self._d)
        return E.load(self._qkv, [first + e], lanes), E.load(self._qkv, [first + self._d // 2 + e], lanes)

    def turned(self, queries: E.Buffer, member: E.Expr, head: E.Expr, query: E.LaneReader, scale: float) -> None:
        """Writes row `member` of `queries` [G, D]: what is multiplied with cos(t) and, in its second half, sin(t)."""
        half = self._d // 2

        def turn(e: E.Expr, lanes: int) -> None:
            b1, b2 = (E.let(part * E.const(scale, lanes)) for part in self.halves(head, e, lanes))
            q1, q2 = E.let(query(e, lanes)), E.let(query(e + half, lanes))
            E.store(queries, [member, e], q1 * b1 + q2 * b2, lanes)
            E.store(queries, [member, half + e], q2 * b1 - q1 * b2, lanes)

        E.lanewise(half, self._isa, turn)

    def score(self, queries: E.Buffer, member: E.Expr, position: E.Expr) -> E.Expr:
        """What the bias adds to a query's score with the key at `position`; `queries` as `turned` wrote them."""
        half, lanes = self._d // 2, self._isa.lanes

        def term(e: E.Expr | int, width: int, total: E.Expr) -> E.Expr:
            cos, sin = E.load(self._cos, [position, e], width), E.load(self._sin, [position, e], width)
            total = E.fma(E.load(queries, [member, e], width), cos, total, width)
            return E.fma(E.load(queries, [member, half + e], width), sin, total, width)

        sums = E.Register(lanes, initial=E.const(0, lanes))
        with E.serial(half // lanes) as index:
            sums.set(term(index * lanes, lanes, sums.get()))
        total = E.Register(1, initial=E.reduce(sums.get(), lanes, E.add))
        with E.serial(half // lanes * lanes, half) as e:
            total.set(term(e, 1, total.get()))
        return total.get()

    def rotated(self, out: E.Buffer, head: E.Expr, position: E.Expr) -> None:
        """Writes R(position) b of a KV head into `out` [D]."""
        half = self._d // 2

        def rotate(e: E.Expr, lanes: int) -> None:
            cos, sin = (E.let(E.load(table, [position, e], lanes)) for table in (self._cos, self._sin))
            b1, b2 = (E.let(part) for part in self.halves(head, e, lanes))
            E.store(out, [e], b1 * cos - b2 * sin, lanes)
            E.store(out, [half + e], b2 * cos + b1 * sin, lanes)

        E.lanewise(half, self._isa, rotate)
