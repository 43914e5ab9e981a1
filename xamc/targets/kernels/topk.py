"""The k largest or smallest elements along an axis, best first, with their places: a heap of k per row, then sorted.

Elements are compared as integers: the bits of a float in an order that equals that of the numbers, -0 as 0, and NaN
above infinity, as NumPy sorts. Of equal elements the one with the lower place is better.
"""

from __future__ import annotations

from xamc.targets.kernels import emit as E

_LOWEST = -(2**63)
"""The sign of two's complement."""


def topk(name: str, dtype: str, most: int | None, largest: bool) -> E.PrimFunc:
    """The best elements of every row.

    Args:
        name: of the PrimFunc.
        dtype: of the elements; float16, float32, float64 or any integer.
        most: how many are kept of a row, k, at least 1; None where the results' extent says so.
        largest: the largest ones, or the smallest, where a NaN comes last.

    Returns:
        A PrimFunc (x [R, N, S], values [R, k, S], places int64 [R, k, S]) for any R and S, and any N of at least k:
        rows run along the middle axis.
    """

    def body() -> None:
        rows, count, inner = E.dynamic("rows"), E.dynamic("count"), E.dynamic("inner")
        k = E.dynamic("k") if most is None else E.i64(most)
        x = E.parameter("x", (rows, count, inner), dtype)
        values = E.parameter("values", (rows, k, inner), dtype)
        places = E.parameter("places", (rows, k, inner), "int64")

        def row(index: E.Expr) -> None:
            r, s = E.let(index // inner), E.let(index % inner)
            heap = _Heap(E.scratch((k,), "int64"), E.scratch((k,), "int64"), (most or 2**31).bit_length())
            with E.serial(E.i64(0), k) as i:
                heap.set(i, _key(E.load(x, [r, i, s]), dtype, largest), i)
            half = E.let(k // 2)
            with E.serial(E.i64(0), half) as i:
                heap.sink(half - 1 - i, k)
            with E.serial(k, count) as i:
                key = E.Register(1, "int64", _key(E.load(x, [r, i, s]), dtype, largest))

                def keep(i: E.Expr = i, key: E.Register = key) -> None:
                    heap.set(E.i64(0), key.get(), i)
                    heap.sink(E.i64(0), k)

                # a later place is worse than an equal one that is in already
                E.when(key.get() > heap.key(E.i64(0)), keep)
            with E.serial(E.i64(0), k - 1) as i:  # the worst one that is left goes to the end
                last = E.let(k - 1 - i)
                heap.swap(E.i64(0), last)
                heap.sink(E.i64(0), last)
            with E.serial(E.i64(0), k) as i:
                place = E.Register(1, "int64", heap.place(i))
                E.store(values, [r, i, s], E.load(x, [r, place.get(), s]))
                E.store(places, [r, i, s], place.get())

        E.rows(rows * inner, row)

    return E.build(name, body)


class _Heap:
    """Keys and places; the worst one is at 0, and none is better than the two below it, at 2i + 1 and 2i + 2."""

    def __init__(self, keys: E.Buffer, places: E.Buffer, levels: int) -> None:
        self._keys, self._places = keys, places
        self._levels = levels

    def key(self, at: E.Expr) -> E.Expr:
        return E.load(self._keys, [at])

    def place(self, at: E.Expr) -> E.Expr:
        return E.load(self._places, [at])

    def set(self, at: E.Expr, key: E.Expr, place: E.Expr) -> None:
        E.store(self._keys, [at], key)
        E.store(self._places, [at], place)

    def swap(self, a: E.Expr, b: E.Expr) -> None:
        key, place = E.Register(1, "int64", self.key(a)), E.Register(1, "int64", self.place(a))
        self.set(a, self.key(b), self.place(b))
        self.set(b, key.get(), place.get())

    def _worse(self, a: E.Expr, b: E.Expr) -> E.Expr:
        same = E.both(self.key(a) == self.key(b), self.place(a) > self.place(b))
        return E.either(self.key(a) < self.key(b), same)

    def sink(self, start: E.Expr, size: E.Expr) -> None:
        """Lets an element sink, below worse ones, in a heap of `size`."""
        at = E.Register(1, "int64", start)

        def step() -> None:
            child = E.Register(1, "int64", at.get() * E.i64(2) + E.i64(1))

            def right() -> None:
                E.when(self._worse(child.get() + E.i64(1), child.get()), lambda: child.set(child.get() + E.i64(1)))

            E.when(child.get() + E.i64(1) < size, right)

            def down() -> None:
                self.swap(at.get(), child.get())
                at.set(child.get())

            E.when(self._worse(child.get(), at.get()), down, lambda: at.set(size))

        with E.serial(self._levels):
            E.when(at.get() * E.i64(2) + E.i64(1) < size, step)


def _key(value: E.Expr, dtype: str, largest: bool) -> E.Expr:
    """An int64 that is larger for a better element."""
    if dtype.startswith("float"):
        bits = int(dtype.removeprefix("float"))
        raw = E.bits(value, f"int{bits}", 1)
        magnitude = E.cast(raw, "int64", 1) & E.i64((1 << (bits - 1)) - 1)
        infinity = {16: 0x7C00, 32: 0x7F800000, 64: 0x7FF0000000000000}[bits]
        # -0 has no magnitude: it is 0
        signed = E.select(raw < E.const(0, 1, f"int{bits}"), E.i64(0) - magnitude, magnitude)
        key = E.select(magnitude > E.i64(infinity), E.i64(0x7FFFFFFFFFFFFFFF), signed)
    elif dtype == "uint64":
        key = E.bits(value, "int64", 1) ^ E.i64(_LOWEST)
    else:
        key = E.cast(value, "int64", 1)
    return key if largest else E.i64(-1) - key
