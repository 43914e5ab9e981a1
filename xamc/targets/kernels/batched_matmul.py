"""C = A B for batches of small matrices of any strides, as eager attention has them; sums in float32.

With several rows, a task is a block of rows of one matrix: its rows of A are widened to float32 once; per panel of
columns B is widened, transposed if it lies so, and multiplied in register tiles. With one row, B is read where it
lies: along K when that is how it is stored (scores of a query), else along N (a weighted sum of values).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.microkernel import FLOAT32, cut_rows, emit_tile, row_tiles, tile_size
from xamc.targets.kernels.strided import PARALLEL_ELEMENTS, Strides, row_offset

_BLOCK_FLOATS = 64 * 1024
"""Widened elements of A of a task: 256 KiB, half of the second-level cache of common parts."""
_BLOCK_ROWS = 96
_COLUMNS = 64
"""Columns of a task of one row."""


@dataclass(frozen=True)
class MatMulShape:
    """The extents of C = A B: A [*batch, m, k], B [*batch, k, n], C [*batch, m, n]."""

    batch: tuple[int, ...]
    m: int
    n: int
    k: int


def batched_matmul(name: str, shape: MatMulShape, a: Strides, b: Strides, dtype: str, isa: Isa) -> E.PrimFunc:
    """The product of two batches of matrices.

    Args:
        name: of the PrimFunc.
        shape: the extents.
        a: how A is read, a step for each of [*batch, m, k]; float32 or float16.
        b: how B is read, a step for each of [*batch, k, n]; float32 or float16. A step of 0 along the batch shares
            a matrix, as grouped queries share their keys.
        dtype: of C; rounded once.
        isa: the level to generate for.

    Returns:
        A PrimFunc with A, B and C as flat buffers; C in C order.
    """

    def body() -> None:
        left = E.parameter("a", (a.size,), a.dtype)
        right = E.parameter("b", (b.size,), b.dtype)
        y = E.parameter("y", (prod(shape.batch) * shape.m * shape.n,), dtype)
        product = _Product(shape, a, b, left, right, y, isa)
        if shape.m > 1:
            product.tiles()
        elif b.steps[-2] == 1 and b.steps[-1] != 1:
            product.dot_products()
        else:
            product.weighted_sum()

    return E.build(name, body)


class _Product:
    def __init__(
        self, shape: MatMulShape, a: Strides, b: Strides, left: E.Buffer, right: E.Buffer, y: E.Buffer, isa: Isa
    ) -> None:
        self.shape, self.a, self.b, self.isa, self.lanes = shape, a, b, isa, isa.lanes
        self.left, self.right, self.y = left, right, y
        self.matrices = prod(shape.batch)
        self.loop = E.parallel if self.matrices * shape.m * shape.n * shape.k >= PARALLEL_ELEMENTS else E.serial

    def base(self, strides: Strides, matrix: E.Expr) -> E.Expr:
        """Where a matrix of the batch begins."""
        return E.let(row_offset(matrix, self.shape.batch, strides.steps[:-2]) + strides.offset)

    # -- one row ------------------------------------------------------------------------------------------------

    def vector(self, matrix: E.Expr) -> E.Buffer:
        """The row of A, widened."""
        values, first, step = E.scratch((self.shape.k,)), self.base(self.a, matrix), self.a.steps[-1]
        self.widen(self.left, first, step, self.shape.k, lambda c, value, lanes: E.store(values, [c], value, lanes))
        return values

    def dot_products(self) -> None:
        """y[n] = sum_k a[k] b[n, k], for as many columns at once as a vector has lanes."""
        n, k, lanes = self.shape.n, self.shape.k, self.lanes
        chunks = -(-n // _COLUMNS)
        with self.loop(self.matrices * chunks) as task:
            matrix, chunk = E.let(task // chunks), E.let(task % chunks)
            row, first = self.vector(matrix), self.base(self.b, matrix)
            result = E.let(matrix * n)

            def dot(column: E.Expr, register: E.Register, rest: E.Register) -> None:
                def step(c: E.Expr, count: int) -> None:
                    at = first + column * self.b.steps[-1] + c
                    total = register if count > 1 else rest
                    value = E.load_float(self.right, [at], count, self.isa)
                    total.set(E.fma(E.load(row, [c], count), value, total.get(), count))

                E.lanewise(k, self.isa, step)

            def block(column: E.Expr) -> None:
                registers = [E.Register(lanes, initial=E.const(0, lanes)) for _ in range(lanes)]
                rests = [E.Register(1, initial=E.f32(0)) for _ in range(lanes)]
                for t in range(lanes):
                    dot(column + t, registers[t], rests[t])
                sums = E.let(E.gather_sums([register.get() for register in registers]))
                if k % lanes == 0:
                    E.store_float(self.y, [result + column], sums, lanes, self.isa)
                    return
                for t in range(lanes):
                    E.store_float(self.y, [result + column + t], E.shuffle(sums, [t]) + rests[t].get(), 1, self.isa)

            def single(column: E.Expr) -> None:
                register, rest = E.Register(lanes, initial=E.const(0, lanes)), E.Register(1, initial=E.f32(0))
                dot(column, register, rest)
                total = E.reduce(register.get(), lanes, E.add) + rest.get()
                E.store_float(self.y, [result + column], total, 1, self.isa)

            start = E.let(chunk * _COLUMNS)
            extent = E.let(E.minimum(n - start, _COLUMNS)) if n % _COLUMNS else _COLUMNS
            with E.serial(extent // lanes) as i:
                block(E.let(start + i * lanes))
            if n % lanes:
                with E.serial(extent // lanes * lanes, extent) as i:
                    single(E.let(start + i))

    def weighted_sum(self) -> None:
        """y[n] = sum_k a[k] b[k, n], with the sums of a chunk of columns in registers."""
        n, k, lanes = self.shape.n, self.shape.k, self.lanes
        width = min(_COLUMNS, n)
        chunks = -(-n // width)
        down, along = self.b.steps[-2:]
        with self.loop(self.matrices * chunks) as task:
            matrix, chunk = E.let(task // chunks), E.let(task % chunks)
            row, first = self.vector(matrix), self.base(self.b, matrix)
            start = E.let(chunk * width)
            result = E.let(matrix * n + start)

            def columns(offset: E.Expr, count: int, vectors: int) -> None:
                """`vectors` vectors of `count` columns from `offset` on."""
                sums = [E.Register(count, initial=E.const(0, count)) for _ in range(vectors)]
                with E.serial(k) as c:
                    factor = E.let(E.splat(E.load(row, [c]), count))
                    at = E.let(first + c * down)
                    for v, total in enumerate(sums):
                        place = at + (start + offset + v * count) * along
                        value = self.elements(self.right, place, along, count)
                        total.set(E.fma(factor, value, total.get(), count))
                for v, total in enumerate(sums):
                    E.store_float(self.y, [result + offset + v * count], total.get(), count, self.isa)

            if n % width == 0 and width % lanes == 0:
                columns(E.i32(0), lanes, width // lanes)
            else:
                extent = E.let(E.minimum(n - start, width))
                with E.serial(extent // lanes) as i:
                    columns(E.let(i * lanes), lanes, 1)
                with E.serial(extent // lanes * lanes, extent) as i:
                    columns(i, 1, 1)

    # -- several rows -------------------------------------------------------------------------------------------

    def tiles(self) -> None:
        """Blocks of rows in parallel; per panel of columns, register tiles over all of K."""
        m, n, k = self.shape.m, self.shape.n, self.shape.k
        tallest = row_tiles(self.isa)[0]
        height = max(1, min(_BLOCK_ROWS, _BLOCK_FLOATS // k, m) // tallest) * tallest
        width = tile_size(self.isa)[1] * self.lanes
        blocks = -(-m // height)
        with self.loop(self.matrices * blocks) as task:
            matrix, first = E.let(task // blocks), E.let(task % blocks * height)
            rows = E.let(E.minimum(m - first, height)) if m % height else E.i32(height)
            left = self.rows_of_a(matrix, first, rows, height)
            panel = E.scratch((k, width))
            begin = self.base(self.b, matrix)
            result = E.let(E.i64(matrix) * (m * n) + E.i64(first) * n)
            with E.serial(n // width) as part:
                column = E.let(part * width)
                self.widen_panel(panel, begin, column, width)
                cut_rows(rows, row_tiles(self.isa), lambda row, size: self.tile(left, panel, result, row, size, column))
            if n % width:
                column = E.i32(n // width * width)
                with E.serial(k) as r:
                    E.lanewise(width, self.isa, lambda c, lanes: E.store(panel, [r, c], E.const(0, lanes), lanes))
                self.widen_panel(panel, begin, column, n % width)
                cut_rows(
                    rows,
                    row_tiles(self.isa),
                    lambda row, size: self.tile(left, panel, result, row, size, column, n % width),
                )

    def rows_of_a(self, matrix: E.Expr, first: E.Expr, rows: E.Expr, height: int) -> E.Buffer:
        k = self.shape.k
        values, begin = E.scratch((height, k)), self.base(self.a, matrix)
        with E.serial(rows) as r:
            at = E.let(begin + (first + r) * self.a.steps[-2])

            def keep(c: E.Expr, value: E.Expr, lanes: int) -> None:
                E.store(values, [r, c], value, lanes)

            self.widen(self.left, at, self.a.steps[-1], k, keep)
        return values

    def widen_panel(self, panel: E.Buffer, begin: E.Expr, column: E.Expr, width: int) -> None:
        """panel[k, c] = B[k, column + c] in float32."""
        k, lanes, (down, along) = self.shape.k, self.lanes, self.b.steps[-2:]
        if down == 1 and along != 1 and k % lanes == 0 and width % lanes == 0:
            with E.serial(width // lanes) as block:
                places = [E.let(begin + (column + block * lanes + t) * along) for t in range(lanes)]
                with E.serial(k // lanes) as c:
                    loaded = [E.let(E.load_float(self.right, [place + c * lanes], lanes, self.isa)) for place in places]
                    for t, vector in enumerate(E.transpose(loaded)):
                        E.store(panel, [c * lanes + t, block * lanes], vector, lanes)
            return
        with E.serial(k) as r:
            at = E.let(begin + r * down + column * along)

            def keep(c: E.Expr, value: E.Expr, count: int) -> None:
                E.store(panel, [r, c], value, count)

            self.widen(self.right, at, along, width, keep)

    def tile(
        self,
        left: E.Buffer,
        panel: E.Buffer,
        result: E.Expr,
        row: E.Expr,
        rows: int,
        column: E.Expr,
        tail: int | None = None,
    ) -> None:
        """`rows` rows times a panel; of the last panel only `tail` columns exist."""
        lanes, vectors, n = self.lanes, tile_size(self.isa)[1], self.shape.n
        sums = [[E.Register(lanes, initial=E.const(0, lanes)) for _ in range(vectors)] for _ in range(rows)]
        emit_tile(
            FLOAT32,
            rows,
            vectors,
            lanes,
            self.shape.k,
            lambda r, s: E.load(left, [row + r, s]),
            lambda s, v: E.load(panel, [s, v * lanes], lanes),
            sums,
        )
        for r, registers in enumerate(sums):
            at = E.let(result + (row + r) * n + column)
            for v, register in enumerate(registers):
                if tail is None or (v + 1) * lanes <= tail:
                    E.store_float(self.y, [at + v * lanes], register.get(), lanes, self.isa)
                elif v * lanes < tail:
                    with E.serial(tail - v * lanes) as c:
                        E.store_float(self.y, [at + v * lanes + c], E.load(register.buffer, [c]), 1, self.isa)

    # -- reading ------------------------------------------------------------------------------------------------

    def widen(
        self, buffer: E.Buffer, first: E.Expr, step: int, count: int, keep: Callable[[E.Expr, E.Expr, int], None]
    ) -> None:
        """Hands `count` elements from `first` on to `keep(index, float32 values, lanes)`."""
        E.lanewise(
            count,
            self.isa,
            lambda c, lanes: keep(c, E.let(self.elements(buffer, first + c * step, step, lanes)), lanes),
        )

    def elements(self, buffer: E.Buffer, place: E.Expr, step: int, lanes: int) -> E.Expr:
        """`lanes` elements from `place` on, `step` apart, as float32."""
        if step == 1 or lanes == 1:
            return E.load_float(buffer, [place], lanes, self.isa)
        if step == 0:
            return E.splat(E.load_float(buffer, [place], 1, self.isa), lanes)
        value = E.load_strided(buffer, place, step, lanes)
        return E.half_to_float(value, lanes, self.isa) if str(buffer.ty.dtype) == "float16" else value
