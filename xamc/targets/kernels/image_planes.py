"""Windows over images [N, C, H, W]: how they lie, and copies of planes in which every window is inside.

A padded plane has the rows and columns that windows read, padding included. Its columns are cut by their remainder
modulo the stride, so that one element of all windows of a row of outputs lies in a row, whatever the stride is.
"""

from __future__ import annotations

from dataclasses import dataclass

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import Isa


@dataclass(frozen=True)
class Window:
    """What moves over an image.

    Attributes:
        kernel: height and width.
        strides: along height and width.
        dilations: distances of neighbours in the kernel.
        before: rows and columns of padding above and to the left.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    before: tuple[int, int] = (0, 0)

    @property
    def taps(self) -> int:
        """Elements of the kernel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def tag(self) -> str:
        """As part of a name."""
        parts = (self.kernel, self.strides, self.dilations, self.before)
        return "_".join("x".join(str(extent) for extent in pair) for pair in parts)


class PaddedPlanes:
    """Where an element of a window lies in planes that `fill` wrote.

    Attributes:
        rows: of a plane.
        pitch: columns of one remainder modulo the stride.
        size: elements of a plane.
    """

    def __init__(self, window: Window, out_height: E.Expr, out_width: E.Expr, isa: Isa) -> None:
        self.window, self.isa = window, isa
        (kernel_h, kernel_w), (stride_h, self.phases), (dilation_h, dilation_w) = (
            window.kernel,
            window.strides,
            window.dilations,
        )
        self.rows = (out_height - 1) * stride_h + ((kernel_h - 1) * dilation_h + 1)
        self.pitch = out_width + (kernel_w - 1) * dilation_w // self.phases
        self.size = self.rows * self.phases * self.pitch

    def pixel(self, row: E.Expr, column: E.Expr) -> E.Expr:
        """Where the window of an output begins, in its plane."""
        return row * (self.window.strides[0] * self.phases) * self.pitch + column

    def tap(self, row: int, column: int) -> E.Expr:
        """How far behind it an element of the window lies."""
        down, along = row * self.window.dilations[0], column * self.window.dilations[1]
        return (down * self.phases + along % self.phases) * self.pitch + along // self.phases

    def fill(
        self, planes: E.Buffer, first: E.Expr, x: E.Buffer, image: E.Expr, channel: E.Expr, outside: float = 0.0
    ) -> None:
        """Copies a channel of an image to planes[first:], with `outside` around it."""
        height = x.shape[2]
        top, left = self.window.before
        with E.serial(self.rows) as row:
            source = E.let(row - top)
            begin = E.let(first + row * (self.phases * self.pitch))

            def inside(source: E.Expr = source, begin: E.Expr = begin) -> None:
                for phase in range(self.phases):
                    self._fill_row(planes, begin + phase * self.pitch, x, image, channel, source, phase - left, outside)

            def padding(begin: E.Expr = begin) -> None:
                self._set(planes, begin, self.phases * self.pitch, outside)

            E.when(E.both(source >= 0, source < height), inside, padding)

    def _fill_row(
        self,
        planes: E.Buffer,
        begin: E.Expr,
        x: E.Buffer,
        image: E.Expr,
        channel: E.Expr,
        source: E.Expr,
        shift: int,
        outside: float,
    ) -> None:
        """planes[begin + c] = x[..., c * stride + shift] for the columns of one remainder."""
        step, width, lanes = self.phases, x.shape[3], self.isa.lanes
        begin = E.let(begin)
        # columns [start, stop) come from the image
        start = max(0, -(shift // step))
        stop = E.let(E.maximum(E.minimum((width - shift + (step - 1)) // step, self.pitch), start))
        head = E.let(E.minimum(self.pitch, start))
        self._set(planes, begin, head, outside)
        if step == 1:
            whole = E.let((stop - start) // lanes)
            with E.serial(whole) as i:
                at = E.let(i * lanes + start)
                E.store(planes, [begin + at], E.load(x, [image, channel, source, at + shift], lanes), lanes)
            with E.serial(E.let(stop - start - whole * lanes)) as i:
                at = E.let(whole * lanes + start + i)
                E.store(planes, [begin + at], E.load(x, [image, channel, source, at + shift]))
        else:
            with E.serial(E.let(stop - start)) as i:
                at = E.let(i + start)
                E.store(planes, [begin + at], E.load(x, [image, channel, source, at * step + shift]))
        self._set(planes, E.let(begin + stop), E.let(self.pitch - stop), outside)

    def _set(self, planes: E.Buffer, begin: E.Expr, count: E.Expr, value: float) -> None:
        with E.serial(count) as c:
            E.store(planes, [begin + c], E.f32(value))
