"""Y = X W^T for any number of rows: blocked for the caches, in tiles that live in registers.

1. X is copied block by block along K, so that the rows of a block are neighbours (rows of X that are a power of two
   apart would evict each other from the caches); for the bfloat16 dot product it is rounded on the way.
2. In parallel over blocks of rows and panels of 32 output features, per block along K: the panel's weights are
   dequantized once into a scratch that fits the first-level cache, then multiplied with every row tile of the block.
   Sums stay in registers over a block along K and in memory of the task between blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from xamc.artifact.panels import PANEL
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.gemm_output import Destination, GemmOutput
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.microkernel import (
    UNROLLED,
    TileArithmetic,
    cut_rows,
    emit_tile,
    register_tile,
    row_tiles,
)
from xamc.targets.kernels.threads import tasks
from xamc.targets.kernels.tiles import DEFAULT_LINEAR, LinearTiles
from xamc.targets.kernels.weights import PackedWeight

SERIAL_ROWS = 16
"""Up to this many rows X is copied by the calling thread."""


def emit_gemm(weight: PackedWeight, x: E.Buffer, into: Destination, arithmetic: TileArithmetic) -> None:
    """Emits the body of a GEMM; x [M, K]. For the bfloat16 dot product both operands are rounded."""
    _Gemm(weight, x, into, arithmetic).emit()


def block_rows(isa: Isa, tiles: LinearTiles = DEFAULT_LINEAR) -> int:
    """Most rows of a block: a multiple of the tallest tile, as blocks are cut into these."""
    tallest = register_tile(isa, tiles)[0]
    return max(1, tiles.block_rows // tallest) * tallest


@dataclass(frozen=True)
class GemmTask:
    """What one task of a GEMM does: `rows` rows of X from `first` on, times a panel, or a gate's two."""

    panel: E.Expr
    first: E.Expr
    rows: E.Expr
    output: GemmOutput


@contextmanager
def gemm_tasks(weight: PackedWeight, m: E.Expr, into: Destination) -> Iterator[GemmTask]:
    """A loop over the tasks of M rows, in parallel; panels of the same rows follow each other."""
    row_blocks, height = cut_blocks(m, weight.isa, weight.tiles)
    panels = weight.layout.panels // (2 if into.gate else 1)
    with tasks(row_blocks * panels) as task:
        panel = E.let(task % panels)
        first = E.let(task // panels * height)
        rows = E.let(E.minimum(m - first, height))
        yield GemmTask(panel, first, rows, GemmOutput(weight, into, block_rows(weight.isa, weight.tiles)))


def cut_blocks(m: E.Expr, isa: Isa, tiles: LinearTiles) -> tuple[E.Expr, E.Expr]:
    """Number of blocks that M rows are cut into, and their height: a multiple of the tallest tile."""
    most, tallest = block_rows(isa, tiles), register_tile(isa, tiles)[0]
    blocks = E.let((m + (most - 1)) // most)
    return blocks, E.let(((m + blocks - 1) // blocks + (tallest - 1)) // tallest * tallest)


def ask_for_next_block(
    weight: PackedWeight,
    panel: E.Expr,
    following: E.Expr,
    block: E.Expr,
    part: E.Expr,
    row: E.Expr,
    rows: E.Expr,
) -> None:
    """Asks for a register tile's share of the weights that the task, or the one after it, takes next.

    Args:
        weight: the weight.
        panel: the panel that is being multiplied.
        following: the one after it.
        block: block along K that is being multiplied.
        part: the tile's part of the panel.
        row: the tile's first row in the task.
        rows: rows of the task, a full tile at least.
    """
    tallest, vectors = register_tile(weight.isa, weight.tiles)
    steps = weight.tiles.block_k // weight.format.k_step
    last = (block + 1) * weight.tiles.block_k >= weight.k
    tiles = E.let(rows // tallest)
    weight.prefetch_share(
        E.let(E.choose(last, following, panel)),
        E.let(E.choose(last, E.i32(0), (block + 1) * steps)),
        steps,
        E.let(part * tiles + row // tallest),
        E.let(tiles * (PANEL // (vectors * weight.isa.lanes))),
    )


class _Gemm:
    def __init__(self, weight: PackedWeight, x: E.Buffer, into: Destination, arithmetic: TileArithmetic) -> None:
        self.weight, self.isa, self.x, self.into = weight, weight.isa, x, into
        self.m, self.n, self.k = x.shape[0], weight.n, weight.k
        self.arithmetic = arithmetic
        self.lanes = weight.isa.lanes
        self.tallest, self.vectors = register_tile(weight.isa, weight.tiles)
        self.width = self.vectors * self.lanes
        self.block_k = weight.tiles.block_k
        self.blocks = -(-self.k // self.block_k)

    def emit(self) -> None:
        with self.arithmetic.scope():
            copy_dtype = "float32" if self.arithmetic.k == 1 else "uint16"
            copy = E.scratch((self.blocks, self.m, self.block_k), copy_dtype)
            E.rows(self.m, lambda i: self.copy_row(copy, i), threshold=SERIAL_ROWS)

            with gemm_tasks(self.weight, self.m, self.into) as task:
                values = E.scratch(
                    (PANEL // self.width, self.block_k // self.arithmetic.k, self.width), self.arithmetic.dtype
                )

                def multiply(panel: E.Expr, following: E.Expr, base: E.Expr) -> None:
                    with E.serial(self.blocks) as block:
                        k = E.let(E.minimum(self.k - block * self.block_k, self.block_k))
                        self.dequantize(values, panel, block, k)
                        with E.serial(PANEL // self.width) as part:

                            def tile(row: E.Expr, size: int) -> None:
                                if size == self.tallest:
                                    ask_for_next_block(self.weight, panel, following, block, part, row, task.rows)
                                places = E.let(task.first + row), E.let(base + row)
                                self.tile(copy, values, task.output, part, block, k, *places, size)

                            cut_rows(task.rows, self.heights(), tile)

                task.output.add_up(task.panel, task.rows, multiply)
                task.output.write(task.panel, task.first, task.rows)

    def heights(self) -> tuple[int, ...]:
        """Heights of register tiles, with one of two thirds: the smaller ones have too few sums to keep the
        multiply-adds busy, and rows are left over at every prompt whose length fills no whole tiles."""
        return tuple(sorted({*row_tiles(self.isa, self.tallest), max(1, self.tallest * 2 // 3)}, reverse=True))

    def copy_row(self, copy: E.Buffer, i: E.Expr) -> None:
        """Copies (or rounds) a row of X into blocks along K."""
        whole = self.k // self.block_k

        def copy_block(block: E.Expr, extent: int) -> None:
            def vector(c: E.Expr, lanes: int) -> None:
                value = E.load(self.x, [i, block * self.block_k + c], lanes)
                if self.arithmetic.k == 2:
                    value = E.float_to_bfloat(E.let(value), lanes)
                E.store(copy, [block, i, c], value, lanes)

            E.lanewise(extent, self.isa, vector)
            if extent % self.arithmetic.k:
                E.store(copy, [block, i, extent], E.const(0, 1, "uint16"))

        with E.serial(whole) as block:
            copy_block(block, self.block_k)
        if self.k % self.block_k:
            copy_block(E.i32(whole), self.k % self.block_k)

    def dequantize(self, values: E.Buffer, panel: E.Expr, block: E.Expr, k: E.Expr) -> None:
        """Writes the panel's weights of a block along K as the operands of the arithmetic."""
        weight, step, lanes = self.weight, self.weight.format.k_step, self.lanes
        group = min(weight.group, self.block_k)
        with E.serial(E.let((k + (group - 1)) // group)) as g:
            scales, offsets = [], []
            if weight.format.quantized:
                index = E.let(block * (self.block_k // group) + g) if weight.group == group else E.i32(0)
                for row in weight.panel_rows():
                    scale = E.let(weight.scale(panel, index, row, lanes))
                    scales.append(scale)
                    # (q - z) s = q s - z s: both products are exact (at most 22 significant bits), so the weight is
                    # rounded once.
                    offsets.append(E.let(E.const(0, lanes) - weight.zero(panel, index, row, lanes) * scale))
            extent = E.let(E.minimum(k - g * group, group))
            with E.serial(E.let((extent + (step - 1)) // step)) as s:
                first = E.let(g * group + s * step)
                for v, row in enumerate(weight.panel_rows()):
                    word = E.let(weight.word(panel, (block * self.block_k + g * group) // step + s, row, lanes))

                    def value(index: int, v: int = v, word: E.Expr = word) -> E.Expr:
                        raw = weight.value(word, index, lanes)
                        return E.fma(raw, scales[v], offsets[v], lanes) if scales else raw

                    self.operands(values, row // self.width, row % self.width, first, step, word, value)

    def operands(
        self,
        values: E.Buffer,
        part: int,
        column: int,
        first: E.Expr,
        step: int,
        word: E.Expr,
        value: Callable[[int], E.Expr],
    ) -> None:
        """Stores the `step` weights from K offset `first` on."""
        lanes = self.lanes
        if self.arithmetic.k == 1:
            for index in range(step):
                E.store(values, [part, first + index, column], value(index), lanes)
        elif self.weight.format.kind == "bfloat16":
            E.store(values, [part, first // 2, column], word, lanes)
        elif step == 1:
            # One K per step: the even one writes a pair with a zero, the odd one adds its half.
            half = E.let(E.cast(E.float_to_bfloat(E.let(value(0)), lanes), "uint32", lanes))

            def even() -> None:
                E.store(values, [part, first // 2, column], half, lanes)

            def odd() -> None:
                low = E.load(values, [part, first // 2, column], lanes)
                E.store(values, [part, first // 2, column], low | (half << E.const(16, lanes, "uint32")), lanes)

            E.when(first % 2 == 0, even, odd)
        else:
            for index in range(0, step, 2):
                low, high = (E.float_to_bfloat(E.let(value(index + i)), lanes) for i in range(2))
                pair = E.cast(low, "uint32", lanes) | (E.cast(high, "uint32", lanes) << E.const(16, lanes, "uint32"))
                E.store(values, [part, (first + index) // 2, column], pair, lanes)

    def tile(
        self,
        copy: E.Buffer,
        values: E.Buffer,
        output: GemmOutput,
        part: E.Expr,
        block: E.Expr,
        k: E.Expr,
        i: E.Expr,
        place: E.Expr,
        rows: int,
    ) -> None:
        """One register tile of rows [i, i + rows) of X over one block along K; its sums begin at row `place`."""
        lanes = self.lanes
        column = E.let(part * self.width)
        sums = [
            [
                E.Register(lanes, initial=E.load(output.sums, [place + r, column + v * lanes], lanes))
                for v in range(self.vectors)
            ]
            for r in range(rows)
        ]

        def left(r: int, s: E.Expr) -> E.Expr:
            if self.arithmetic.k == 1:
                return E.load(copy, [block, i + r, s])
            return E.bits(E.load(copy, [block, i + r, s * 2], 2), "uint32", 1)

        per = self.arithmetic.k

        def ahead(iteration: E.Expr) -> None:
            """Asks for as much of the next tile's rows, which follow in memory, as an iteration uses of this one's."""
            share, line = rows * UNROLLED * per, 64 * per // 4  # elements of the copy
            for first in range(0, share, line):
                E.prefetch(copy, [block, i + rows, iteration * share + first])

        emit_tile(
            self.arithmetic,
            rows,
            self.vectors,
            lanes,
            E.let((k + (per - 1)) // per),
            left,
            lambda s, v: E.load(values, [part, s, v * lanes], lanes),
            sums,
            ahead if rows == self.tallest else None,
        )
        for r, registers in enumerate(sums):
            for v, register in enumerate(registers):
                E.store(output.sums, [place + r, column + v * lanes], register.get(), lanes)
