"""Largest values and means of windows over images [N, C, H, W], each channel from its padded plane."""

from __future__ import annotations

from typing import Literal

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.convolution import each_output, each_tap
from xamc.targets.kernels.image_planes import PaddedPlanes, Window
from xamc.targets.kernels.isa import Isa

_LOWEST = float("-inf")


def pooling(
    name: str,
    kind: Literal["max", "mean"],
    channels: int,
    image: tuple[int | None, int | None],
    window: Window,
    isa: Isa,
) -> E.PrimFunc:
    """Pooling in float32.

    Args:
        name: of the PrimFunc.
        kind: largest values, padding left out, NaN of windows with a NaN; or means, in which padding counts as zeros.
        channels: C.
        image: height and width, None for one that varies.
        window: what moves; its padding below and to the right follows from the result's shape.
        isa: the level to generate for.

    Returns:
        A PrimFunc (x [N, C, H, W], y [N, C, H', W']) for any N, H' and W'.
    """

    def body() -> None:
        n = E.dynamic("n")
        height, width = (E.dynamic(n) if e is None else e for n, e in zip(("h", "w"), image))
        rows, columns = E.dynamic("oh"), E.dynamic("ow")
        x = E.parameter("x", (n, channels, height, width), "float32")
        y = E.parameter("y", (n, channels, rows, columns), "float32")
        flat = E.flat(y, (n * channels * rows * columns,))
        planes = PaddedPlanes(window, rows, columns, isa)
        outside = _LOWEST if kind == "max" else 0.0
        with E.parallel(n * channels) as task:
            plane = E.scratch((planes.size + isa.lanes,))
            planes.fill(plane, E.i32(0), x, E.let(task // channels), E.let(task % channels), outside)
            begin = E.let(task * (rows * columns))

            def outputs(row: E.Expr, column: E.Expr, lanes: int) -> None:
                total = E.Register(lanes, initial=E.const(outside, lanes))
                pixel = E.let(planes.pixel(row, column))

                def tap(r: E.Expr, c: E.Expr) -> None:
                    value = E.let(E.load(plane, [pixel + planes.tap(r, c)], lanes))
                    if kind == "max":
                        # what E.maximum gives of a NaN is its second operand: one in the total stays there
                        largest = E.let(E.maximum(value, total.get()))
                        total.set(E.select(E.is_nan(value, lanes), value, largest))
                    else:
                        total.set(total.get() + value)

                each_tap(window, tap)
                value = total.get() if kind == "max" else total.get() * E.const(1.0 / window.taps, lanes)
                E.store(flat, [begin + row * columns + column], value, lanes)

            each_output(rows, columns, isa.lanes, outputs)

    return E.build(name, body)
