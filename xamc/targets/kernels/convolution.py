"""Convolutions of images [N, C, H, W] as products of weights with windows, a few outputs at a time.

1. Each image is copied to padded planes (see `image_planes`), unless windows are single pixels.
2. In parallel over panels of neighbouring outputs, and over parts of the output channels where an image has few
   outputs: per block of input channels the windows of a panel are laid out as a matrix [K, outputs], which stays in the
   first-level cache while the weights of all output channels stream over it, in tiles that live in registers
   (Goto and van de Geijn, 2008, with windows in the place of packed columns). Sums wait in memory of the task between
   blocks; bias, residual and the bounds of an activation are applied when they are written.

Each channel by itself (depthwise) is multiplied straight from its padded plane.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.image_planes import PaddedPlanes, Window
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.microkernel import FLOAT32, emit_tile
from xamc.targets.kernels.threads import tasks

_VECTORS = 3
"""Vectors of outputs of a panel."""
_BLOCK_K = 256
"""Elements of windows of a block, about: with three vectors of eight floats 24 KiB."""
_TASKS = 8
"""An image with fewer panels is also cut along its output channels."""


@dataclass(frozen=True)
class ConvolutionShape:
    """What is multiplied with what.

    Attributes:
        image: height and width, None for one that varies.
        out: height and width of the result, None for one that varies.
        channels: of the input.
        features: channels of the output.
        groups: G.
        window: how the kernel moves.
    """

    image: tuple[int | None, int | None]
    out: tuple[int | None, int | None]
    channels: int
    features: int
    groups: int
    window: Window

    @property
    def depthwise(self) -> bool:
        """Whether every output channel reads one input channel of several."""
        return self.groups > 1 and self.groups == self.channels


@dataclass(frozen=True)
class Epilogue:
    """What happens to a sum before it is written: bias, then residual, then the bounds."""

    bias: bool = False
    residual: bool = False
    low: float | None = None
    high: float | None = None

    @property
    def tag(self) -> str:
        """As part of a name."""
        parts = ["bias" if self.bias else "", "residual" if self.residual else ""]
        parts += [E.number_name(bound) if bound is not None else "" for bound in (self.low, self.high)]
        return "_".join(part for part in parts if part)


def tile_rows(isa: Isa) -> int:
    """Output channels of a register tile; packed weights hold them side by side."""
    return 8 if isa.registers >= 32 else 4


def packed_shape(shape: ConvolutionShape, isa: Isa) -> tuple[int, ...]:
    """Of the weights [F, C/G, kh, kw] as the kernel takes them: [G, tiles, K, rows of a tile], or [F, kh * kw]."""
    taps, features = shape.window.taps, shape.features // shape.groups
    if shape.depthwise:
        return (shape.features, taps)
    rows = tile_rows(isa)
    return (shape.groups, -(-features // rows), shape.channels // shape.groups * taps, rows)


def convolution(name: str, shape: ConvolutionShape, epilogue: Epilogue, isa: Isa) -> E.PrimFunc:
    """A convolution in float32.

    Args:
        name: of the PrimFunc.
        shape: what is multiplied.
        epilogue: what happens to the sums.
        isa: the level to generate for.

    Returns:
        A PrimFunc (x [N, C, H, W], weight `packed_shape`, bias [F] if any, residual [N, F, H', W'] if any,
        y [N, F, H', W']), all float32, for any N.
    """

    def body() -> None:
        n = E.dynamic("n")
        height, width = (E.dynamic(n) if e is None else e for n, e in zip(("h", "w"), shape.image))
        rows, columns = (E.dynamic(n) if e is None else e for n, e in zip(("oh", "ow"), shape.out))
        x = E.parameter("x", (n, shape.channels, height, width), "float32")
        weight = E.parameter("weight", packed_shape(shape, isa), "float32")
        bias = E.parameter("bias", (shape.features,), "float32") if epilogue.bias else None
        out = (n, shape.features, rows, columns)
        residual = E.parameter("residual", out, "float32") if epilogue.residual else None
        y = E.parameter("y", out, "float32")
        kind = _Depthwise if shape.depthwise else _Dense
        kind(shape, epilogue, isa, x, weight, bias, residual, y, (n, rows, columns)).emit()

    return E.build(name, body)


class _Convolution:
    def __init__(
        self,
        shape: ConvolutionShape,
        epilogue: Epilogue,
        isa: Isa,
        x: E.Buffer,
        weight: E.Buffer,
        bias: E.Buffer | None,
        residual: E.Buffer | None,
        y: E.Buffer,
        out: tuple[E.Expr, E.Expr, E.Expr],
    ) -> None:
        self.shape, self.epilogue, self.isa, self.lanes = shape, epilogue, isa, isa.lanes
        self.x, self.weight, self.bias, self.residual, self.y = x, weight, bias, residual, y
        self.n, self.rows, self.columns = out
        self.pixels = self.rows * self.columns
        self.planes = PaddedPlanes(shape.window, self.rows, self.columns, isa)
        self.group_channels = shape.channels // shape.groups
        self.group_features = shape.features // shape.groups
        flat = (self.n * shape.features * self.pixels,)
        self.flat_y = E.flat(y, flat)
        self.flat_residual = None if residual is None else E.flat(residual, flat)

    def finish(self, value: E.Expr, feature: E.Expr, at: E.Expr, lanes: int) -> None:
        """Writes sums of a feature to y[at:]."""
        if self.bias is not None:
            value = value + E.splat(E.load(self.bias, [feature]), lanes)
        if self.flat_residual is not None:
            value = value + E.load(self.flat_residual, [at], lanes)
        if self.epilogue.low is not None:
            value = E.at_least(E.let(value), E.const(self.epilogue.low, lanes))
        if self.epilogue.high is not None:
            value = E.at_most(E.let(value), E.const(self.epilogue.high, lanes))
        E.store(self.flat_y, [at], value, lanes)


class _Dense(_Convolution):
    """Every output channel of a group reads every input channel of it."""

    def emit(self) -> None:
        shape, lanes = self.shape, self.lanes
        window = shape.window
        self.height = tile_rows(self.isa)
        self.tiles = packed_shape(shape, self.isa)[1]
        self.block = max(1, _BLOCK_K // window.taps)
        self.blocks = -(-self.group_channels // self.block)
        self.width = _VECTORS * lanes
        # single pixels of the image itself, or of padded planes of it
        self.direct = window == Window((1, 1))
        vectors = E.let((self.pixels + (lanes - 1)) // lanes)
        panels = E.let((vectors + (_VECTORS - 1)) // _VECTORS)
        parts = self.parts()
        self.part_tiles = -(-self.tiles // parts)
        size = 1 if self.direct else self.planes.size * shape.channels + lanes
        source = E.flat(self.x, (self.n * shape.channels * self.pixels,)) if self.direct else E.scratch((size,))
        with E.serial(self.n) as image:
            if not self.direct:
                with E.parallel(shape.channels) as channel:
                    self.planes.fill(source, E.let(channel * self.planes.size), self.x, image, channel)
            with tasks(shape.groups * parts * panels) as task:
                panel = E.let(task % panels)
                part = E.let(task // panels % parts)
                group = E.let(task // panels // parts)
                # evenly: a panel of one vector reads its weights as fast as the caches yield them
                first = E.let(panel * vectors // panels * lanes)
                count = E.let(E.minimum(self.pixels, (panel + 1) * vectors // panels * lanes) - first)
                self.task(source, image, group, part, first, count)

    def parts(self) -> int:
        """How many parts the output channels are cut into, so that there is work for all threads."""
        if not all(self.shape.out):
            return 1
        panels = -(-int(self.pixels) // self.width)
        return max(1, min(-(-_TASKS // (panels * self.shape.groups)), self.tiles // 4))

    def task(self, source: E.Buffer, image: E.Expr, group: E.Expr, part: E.Expr, first: E.Expr, count: E.Expr) -> None:
        """`count` outputs from `first` on, of a part of a group's features."""
        taps = self.shape.window.taps
        panel = E.scratch((self.block * taps * self.width + self.lanes,))
        sums = E.scratch((self.part_tiles, self.height, self.width))
        begin = E.let(part * self.part_tiles)
        tiles = E.let(E.minimum(self.tiles - begin, self.part_tiles))
        runs = None if self.direct else self.runs(first, count)
        with E.serial(self.blocks) as block:
            channel = E.let(block * self.block)
            channels = E.let(E.minimum(self.group_channels - channel, self.block))
            if runs is None:
                self.copy_pixels(
                    source, panel, E.let(image * self.shape.channels), group, channel, channels, first, count
                )
            else:
                self.copy_windows(source, panel, runs, E.let(group * self.group_channels + channel), channels)

            def cut(
                vectors: int, block: E.Expr = block, channel: E.Expr = channel, channels: E.Expr = channels
            ) -> None:
                # a single vector of sums per row leaves room for the rows of two tiles
                merged = 2 if vectors == 1 else 1
                step = E.let((tiles + (merged - 1)) // merged)
                with E.serial(step) as i:
                    self.tile(
                        panel,
                        sums,
                        block,
                        E.let(channel * taps),
                        E.let(channels * taps),
                        group,
                        begin,
                        tiles,
                        E.let(i * merged),
                        vectors,
                        merged,
                    )
                    del i

            full = E.let((count + (self.lanes - 1)) // self.lanes)
            E.when(full == 3, lambda: cut(3), lambda: E.when(full == 2, lambda: cut(2), lambda: cut(1)))
        self.write(sums, image, group, begin, tiles, first, count)

    def runs(self, first: E.Expr, count: E.Expr) -> tuple[E.Buffer, E.Buffer, E.Expr]:
        """Vectors that copy the outputs of a panel, as they lie in rows: from where, to where, and how many.

        A vector may be longer than what is left of its row: what is too much is written over by the next one.
        """
        sources, targets = E.scratch((self.width,), "int32"), E.scratch((self.width,), "int32")
        counter = E.Register(1, "int32", E.i32(0))
        top = E.let(first // self.columns)
        bottom = E.let((first + count - 1) // self.columns)
        with E.serial(E.let(bottom - top + 1)) as r:
            row = E.let(top + r)
            start = E.let(E.maximum(first - row * self.columns, 0))
            stop = E.let(E.minimum(first + count - row * self.columns, self.columns))
            with E.serial(E.let((stop - start + (self.lanes - 1)) // self.lanes)) as v:
                column = E.let(start + v * self.lanes)
                index = counter.get()
                E.store(sources, [index], E.cast(self.planes.pixel(row, column), "int32", 1))
                E.store(targets, [index], E.cast(row * self.columns + column - first, "int32", 1))
                counter.set(counter.get() + 1)
        return sources, targets, counter.get()

    def copy_windows(
        self,
        source: E.Buffer,
        panel: E.Buffer,
        runs: tuple[E.Buffer, E.Buffer, E.Expr],
        channel: E.Expr,
        channels: E.Expr,
    ) -> None:
        """panel[(c, kh, kw), output] = the element of that output's window, for channels from `channel` on."""
        sources, targets, number = runs
        window = self.shape.window
        with E.serial(channels) as c:
            plane = E.let((channel + c) * self.planes.size)

            def copy(row: E.Expr, column: E.Expr, c: E.Expr = c, plane: E.Expr = plane) -> None:
                begin = E.let(plane + self.planes.tap(row, column))
                target = E.let((c * window.taps + row * window.kernel[1] + column) * self.width)
                with E.serial(number) as i:
                    value = E.load(source, [begin + E.load(sources, [i])], self.lanes)
                    E.store(panel, [target + E.load(targets, [i])], value, self.lanes)

            with E.serial(window.kernel[0]) as row, E.serial(window.kernel[1]) as column:
                copy(row, column)

    def copy_pixels(
        self,
        source: E.Buffer,
        panel: E.Buffer,
        image: E.Expr,
        group: E.Expr,
        channel: E.Expr,
        channels: E.Expr,
        first: E.Expr,
        count: E.Expr,
    ) -> None:
        """panel[c, output] = that pixel, for channels from `channel` on; nothing behind the image is read."""
        begin = E.let((image + group * self.group_channels + channel) * self.pixels + first)

        def full() -> None:
            with E.serial(channels) as c:
                for v in range(_VECTORS):
                    value = E.load(source, [begin + c * self.pixels + v * self.lanes], self.lanes)
                    E.store(panel, [c * self.width + v * self.lanes], value, self.lanes)

        def partial() -> None:
            whole = E.let(count // self.lanes)
            with E.serial(channels) as c:
                with E.serial(whole) as v:
                    value = E.load(source, [begin + c * self.pixels + v * self.lanes], self.lanes)
                    E.store(panel, [c * self.width + v * self.lanes], value, self.lanes)
                with E.serial(E.let(count - whole * self.lanes)) as i:
                    at = E.let(whole * self.lanes + i)
                    E.store(panel, [c * self.width + at], E.load(source, [begin + c * self.pixels + at]))

        E.when(count == self.width, full, partial)

    def tile(
        self,
        panel: E.Buffer,
        sums: E.Buffer,
        block: E.Expr,
        k: E.Expr,
        steps: E.Expr,
        group: E.Expr,
        begin: E.Expr,
        tiles: E.Expr,
        tile: E.Expr,
        vectors: int,
        merged: int,
    ) -> None:
        """Adds a block along K to the sums of one or two tiles of features."""
        height, lanes = self.height, self.lanes
        registers = [[E.Register(lanes) for _ in range(vectors)] for _ in range(height * merged)]
        # of two tiles the second may not exist: it is computed as the first again
        places = [tile] + [E.let(E.minimum(tile + 1, tiles - 1))] * (merged - 1)

        def each(what: Callable[[E.Register, int, int], None]) -> None:
            for r, row in enumerate(registers):
                for v, register in enumerate(row):
                    what(register, r, v)

        def place(r: int, v: int) -> list[E.Expr]:
            return [places[r // height], r % height, v * lanes]

        E.when(
            block == 0,
            lambda: each(lambda register, r, v: register.zero()),
            lambda: each(lambda register, r, v: register.set(E.load(sums, place(r, v), lanes))),
        )
        emit_tile(
            FLOAT32,
            height * merged,
            vectors,
            lanes,
            steps,
            lambda r, s: E.load(self.weight, [group, begin + places[r // height], k + s, r % height]),
            lambda s, v: E.load(panel, [s * self.width + v * lanes], lanes),
            registers,
        )
        each(lambda register, r, v: E.store(sums, place(r, v), register.get(), lanes))

    def write(
        self,
        sums: E.Buffer,
        image: E.Expr,
        group: E.Expr,
        begin: E.Expr,
        tiles: E.Expr,
        first: E.Expr,
        count: E.Expr,
    ) -> None:
        """Finishes the sums of a task."""
        lanes = self.lanes
        features = E.let(E.minimum(tiles * self.height, self.group_features - begin * self.height))
        with E.serial(features) as f:
            feature = E.let(group * self.group_features + begin * self.height + f)
            at = E.let((image * self.shape.features + feature) * self.pixels + first)
            place = [E.let(f // self.height), E.let(f % self.height)]

            def full(feature: E.Expr = feature, at: E.Expr = at, place: list[E.Expr] = place) -> None:
                for v in range(_VECTORS):
                    self.finish(E.load(sums, [*place, v * lanes], lanes), feature, at + v * lanes, lanes)

            def partial(feature: E.Expr = feature, at: E.Expr = at, place: list[E.Expr] = place) -> None:
                whole = E.let(count // lanes)
                with E.serial(whole) as v:
                    self.finish(E.load(sums, [*place, v * lanes], lanes), feature, at + v * lanes, lanes)
                with E.serial(E.let(count - whole * lanes)) as i:
                    c = E.let(whole * lanes + i)
                    self.finish(E.load(sums, [*place, c]), feature, at + c, 1)

            E.when(count == self.width, full, partial)


class _Depthwise(_Convolution):
    """Every output channel reads one input channel."""

    def emit(self) -> None:
        window = self.shape.window
        with E.parallel(self.n * self.shape.features) as task:
            image, feature = E.let(task // self.shape.features), E.let(task % self.shape.features)
            plane = E.scratch((self.planes.size + self.lanes,))
            channel = E.let(feature // self.group_features)
            self.planes.fill(plane, E.i32(0), self.x, image, channel)
            begin = E.let(task * self.pixels)

            def outputs(row: E.Expr, column: E.Expr, lanes: int) -> None:
                total = E.Register(lanes, initial=E.const(0, lanes))
                pixel = E.let(self.planes.pixel(row, column))

                def tap(r: E.Expr, c: E.Expr) -> None:
                    factor = E.splat(E.load(self.weight, [feature, r * window.kernel[1] + c]), lanes)
                    value = E.load(plane, [pixel + self.planes.tap(r, c)], lanes)
                    total.set(E.fma(factor, value, total.get(), lanes))

                each_tap(window, tap)
                self.finish(total.get(), feature, E.let(begin + row * self.columns + column), lanes)

            each_output(self.rows, self.columns, self.lanes, outputs)


def each_tap(window: Window, body: Callable[[E.Expr, E.Expr], None], unrolled: int = 25) -> None:
    """Runs `body(row, column)` for the elements of a window, in the order of the kernel's."""
    if window.taps <= unrolled:
        for row in range(window.kernel[0]):
            for column in range(window.kernel[1]):
                body(row, column)
    else:
        with E.serial(window.kernel[0]) as row, E.serial(window.kernel[1]) as column:
            body(row, column)


def each_output(rows: E.Expr, columns: E.Expr, lanes: int, body: Callable[[E.Expr, E.Expr, int], None]) -> None:
    """Runs `body(row, column, lanes)` over a plane of outputs, in order, with as many whole vectors as fit.

    The last vector of a row goes on into the next one, which is computed afterwards; only at the plane's end are there
    single outputs.
    """
    with E.serial(rows) as row, E.serial(E.let((columns + (lanes - 1)) // lanes)) as v:
        column = E.let(v * lanes)

        def singles(row: E.Expr = row, column: E.Expr = column) -> None:
            with E.serial(E.let(columns - column)) as c:
                body(row, E.let(column + c), 1)

        def whole(row: E.Expr = row, column: E.Expr = column) -> None:
            body(row, column, lanes)

        E.when(row * columns + column + lanes <= rows * columns, whole, singles)
