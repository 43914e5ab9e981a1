"""Y = X W^T on integers: X is quantized to int8 or int16, weights stay the integers they are stored as.

As `gemm.py`, with these differences: the copy of X holds quantized values beside a scale and a sum per group; weights
are taken apart into the operands of the integer arithmetic instead of being dequantized; a register tile keeps the
integer sums of one group, which are scaled and added to float32 sums in the first-level cache at its end.
"""

from __future__ import annotations

from xamc.artifact.panels import PANEL
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.gemm import SERIAL_ROWS, gemm_tasks
from xamc.targets.kernels.gemm_output import Destination, GemmOutput
from xamc.targets.kernels.integer_dot import IntegerActivations, IntegerDot
from xamc.targets.kernels.microkernel import cut_rows, register_tile, row_tiles
from xamc.targets.kernels.quantize_activations import quantize_group
from xamc.targets.kernels.weights import PackedWeight


def emit_integer_gemm(weight: PackedWeight, x: E.Buffer, into: Destination, activations: IntegerActivations) -> None:
    """Emits the body of a GEMM; x [M, K]. See `IntegerProducts` for the sums."""
    _IntegerGemm(weight, x, into, activations).emit()


class _IntegerGemm:
    def __init__(self, weight: PackedWeight, x: E.Buffer, into: Destination, activations: IntegerActivations) -> None:
        self.weight, self.isa, self.x, self.into = weight, weight.isa, x, into
        self.dot = IntegerDot.of(weight.format, weight.isa, activations)
        self.m, self.k = x.shape[0], weight.k
        self.lanes = weight.isa.lanes
        self.tallest, self.vectors = register_tile(weight.isa, weight.tiles)
        self.width = self.vectors * self.lanes
        self.block_k = weight.tiles.block_k
        # one scale per row can wait until all sums are done
        self.per_row = self.dot.weight_groups is None
        self.whole, self.rest = divmod(weight.k, self.dot.group)
        self.block_groups = self.block_k // self.dot.group
        self.group_units = self.dot.group // self.dot.unit

    def emit(self) -> None:
        groups = self.whole + (self.rest > 0)
        blocks = -(-groups // self.block_groups)
        self.codes = E.scratch((blocks, self.m, self.block_k), self.dot.activations)
        self.scales, self.counts = E.scratch((groups, self.m)), E.scratch((groups, self.m))
        E.rows(self.m, self.quantize_row, threshold=SERIAL_ROWS)

        with gemm_tasks(self.weight, self.m, self.into) as task:
            parts = PANEL // self.width
            operands = E.scratch((parts, self.block_groups * self.group_units, self.width), "int32")
            factors = E.scratch((parts, self.block_groups, self.width))
            zeros = E.scratch((parts, self.block_groups, self.width))

            def multiply(panel: E.Expr, following: E.Expr, base: E.Expr) -> None:
                with E.serial(blocks) as block:
                    count = E.let(E.minimum(groups - block * self.block_groups, self.block_groups))
                    self.take_apart(operands, factors, zeros, panel, block, count)
                    with E.serial(parts) as part:

                        def tile(row: E.Expr, size: int) -> None:
                            places = E.let(task.first + row), E.let(base + row)
                            self.tile(operands, factors, zeros, task.output, part, block, count, *places, size)

                        cut_rows(task.rows, row_tiles(self.isa, self.tallest), tile)
                if self.into.gate and scale is not None:
                    task.output.scale(base, task.rows, scale)

            scale = self.row_scale(factors) if self.per_row else None
            task.output.add_up(task.panel, task.rows, multiply)
            task.output.write(task.panel, task.first, task.rows, None if self.into.gate else scale)

    def row_scale(self, factors: E.Buffer) -> E.LaneReader:
        """The scale of a row of weights, the same for every group."""
        return lambda column, lanes: E.load(factors, [column // self.width, 0, column % self.width], lanes)

    def quantize_row(self, i: E.Expr) -> None:
        """Quantizes a row of X into blocks along K."""

        def one(group: E.Expr, extent: int) -> None:
            first = E.let(group * self.dot.group)
            block = first // self.block_k
            scale, count = quantize_group(
                self.dot, self.x, i, first, extent,
                lambda c, codes, lanes: E.store(
                    self.codes, [E.let(block), i, E.let(c - block * self.block_k)], codes, lanes
                ),
            )  # fmt: skip
            E.store(self.scales, [group, i], scale)
            E.store(self.counts, [group, i], E.f32(0) - count)

        with E.serial(self.whole) as group:
            one(group, self.dot.group)
        if self.rest:
            one(E.i32(self.whole), self.rest)

    def take_apart(
        self, operands: E.Buffer, factors: E.Buffer, zeros: E.Buffer, panel: E.Expr, block: E.Expr, count: E.Expr
    ) -> None:
        """Writes the operands, scales and zero points of a panel's block of `count` groups along K.

        Weights beyond K are whatever lies there, to be multiplied with activations that are zero: a group of the last
        block that is not full is only taken apart as far as it goes.
        """
        weight, dot, lanes = self.weight, self.dot, self.lanes
        steps_in_group = dot.group // dot.words
        total = -(-self.k // dot.words)
        first = E.let(block * (self.block_groups * steps_in_group))
        with E.serial(E.let(E.minimum(total - first, count * steps_in_group))) as step:
            for row in weight.panel_rows():
                word = E.let(weight.word(panel, E.let(first + step), row, lanes))
                for unit, operand in enumerate(dot.operands(word, centered=dot.can_center)):
                    place = [row // self.width, step * dot.units + unit, row % self.width]
                    E.store(operands, place, operand, lanes)
        with E.serial(count) as g:
            group = E.let(block * self.block_groups + g)
            stored = dot.weight_group(group)
            for row in weight.panel_rows():
                place = [row // self.width, g, row % self.width]
                E.store(factors, place, weight.scale(panel, stored, row, lanes), lanes)
                E.store(zeros, place, weight.zero(panel, stored, row, lanes), lanes)

    def tile(
        self,
        operands: E.Buffer,
        factors: E.Buffer,
        zeros: E.Buffer,
        output: GemmOutput,
        part: E.Expr,
        block: E.Expr,
        count: E.Expr,
        i: E.Expr,
        place: E.Expr,
        rows: int,
    ) -> None:
        """One register tile of rows [i, i + rows) of X over one block along K; its sums begin at row `place`."""
        lanes, dot = self.lanes, self.dot
        column = E.let(part * self.width)
        full = E.let(E.minimum(self.whole - block * self.block_groups, count)) if self.rest else count

        def add(g: E.Expr, extent: int) -> None:
            registers = [[dot.sums() for _ in range(self.vectors)] for _ in range(rows)]
            for line in registers:
                for register in line:
                    register.zero()
            with E.serial(-(-extent // dot.words) * dot.units) as unit:
                step = E.let(g * self.group_units + unit)
                right = [E.let(E.load(operands, [part, step, v * lanes], lanes)) for v in range(self.vectors)]
                for r in range(rows):
                    left = dot.activation(self.codes, [block, i + r, step * dot.unit])
                    for v in range(self.vectors):
                        dot.multiply_add(right[v], left, registers[r][v])
            group = E.let(block * self.block_groups + g)
            factor = None if self.per_row else self.vectors_of(factors, part, g)
            zero = None if dot.can_center else self.vectors_of(zeros, part, g)
            for r in range(rows):
                scale = E.let(E.splat(E.load(self.scales, [group, i + r]), lanes))
                negative = None if zero is None else E.let(E.splat(E.load(self.counts, [group, i + r]), lanes))
                for v in range(self.vectors):
                    at = [place + r, column + v * lanes]
                    total = dot.total([registers[r][v]])
                    if zero is not None:
                        total = E.fma(zero[v], negative, total, lanes)
                    by = scale if factor is None else factor[v] * scale
                    E.store(output.sums, at, E.fma(total, by, E.load(output.sums, at, lanes), lanes), lanes)

        with E.serial(full) as g:
            add(g, dot.group)
        if self.rest:
            E.when(full < count, lambda: add(full, self.rest))

    def vectors_of(self, buffer: E.Buffer, part: E.Expr, group: E.Expr) -> list[E.Expr]:
        """The values of a group for each vector of a tile."""
        return [E.let(E.load(buffer, [part, group, v * self.lanes], self.lanes)) for v in range(self.vectors)]
