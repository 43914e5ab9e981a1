"""Token embedding out of a packed linear weight, so that a tied output head is stored once."""

from __future__ import annotations

from xamc.artifact.packing import WeightFormat
from xamc.artifact.panels import PANEL
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.weights import PackedWeight


def embedding(vocabulary: int, h: int, fmt: WeightFormat, isa: Isa, dtype: str = "float32") -> E.PrimFunc:
    """y[t] = W[ids[t]].

    Args:
        vocabulary: rows V of the table; ids must lie in [0, V), which the caller checks.
        h: elements of a row.
        fmt: how the table is stored, as by `pack_rows`.
        isa: the level to generate for.
        dtype: of y.

    Returns:
        A PrimFunc (ids int64 [T], the packed buffers, y [T, h]).
    """

    def body() -> None:
        t = E.dynamic("t")
        ids = E.parameter("ids", (t,), "int64")
        table = PackedWeight(vocabulary, h, fmt, isa)
        y = E.parameter("y", (t, h), dtype)

        E.rows(t, lambda i: take_row(table, E.let(E.load(ids, [i])), y, i), threshold=8)

    return E.build(f"embedding_{vocabulary}x{h}_{fmt.kind}{fmt.group_size or ''}", body)


def take_row(table: PackedWeight, token: E.Expr, y: E.Buffer, i: E.Expr, loop: E.Loop = E.serial) -> None:
    """y[i] = W[token], a group of the row after the other."""
    fmt, h = table.format, table.k
    panel, lane = E.let(token // PANEL), E.let(token % PANEL)
    step = fmt.k_step
    with loop(fmt.groups(h)) as group:
        zero, scale = E.f32(0), E.f32(1)
        if fmt.quantized:
            zero = E.let(table.zero(panel, group, lane, 1))
            scale = E.let(table.scale(panel, group, lane, 1))

        def take(first: E.Expr, count: int) -> None:
            word = E.let(table.word(panel, first // step, lane, 1))
            for offset in range(count):
                value = table.value(word, offset, 1)
                if fmt.quantized:
                    value = (value - zero) * scale
                E.store_float(y, [i, first + offset], value, 1, table.isa)

        whole = table.group // step
        with E.serial(whole) as s:
            take(E.let(group * table.group + s * step), step)
        if table.group % step:  # only when there is a single group
            take(E.i32(whole * step), table.group % step)
