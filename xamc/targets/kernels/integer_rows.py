"""Y = X W^T for a handful of rows of activations, rounded to integers: a batch that decodes, a short chunk of a prompt.

As in `integer_gemv.py` the packed weights are streamed once, in the order in which they lie; the rows are multiplied
a few at a time with each group of weights while that is in the first-level cache. There are two reasons for few at a
time: their sums, the unpacked weights and a broadcast unit of activations fit the registers, and the code does not
grow with the number of rows. Taking the weights apart again for the next rows costs less than keeping the parts.
"""

from __future__ import annotations

from xamc.artifact.panels import PANEL
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.gemv import Outputs, panel_columns
from xamc.targets.kernels.integer_dot import IntegerActivations, IntegerDot
from xamc.targets.kernels.quantize_activations import QuantizedRows
from xamc.targets.kernels.weights import PackedWeight

MOST_ROWS = 16
"""From more rows on, unpacking the weights once to a scratch pays (`integer_gemm.py`)."""
_SERIAL_ROWS = 8
"""Below this, waking the other threads to quantize the rows costs more than they save."""
_SUMS = 8
"""Independent sums that hide the latency of the multiply-add, and that leave registers for its operands."""


def emit_integer_rows(
    weight: PackedWeight,
    x: E.Buffer,
    bias: E.Buffer | None,
    residual: E.Buffer | None,
    y: E.Buffer,
    activations: IntegerActivations,
) -> None:
    """Emits the body; x [M, K], bias [N], residual and y [M, N], with M at most `MOST_ROWS`.

    See `IntegerProducts` for the sums.
    """
    product, outputs = _IntegerRows(weight, x.shape[0], activations), Outputs(weight, bias, residual, y)
    product.quantize(x)
    with E.parallel(weight.layout.panels) as panel, panel_columns(weight, product.tile) as columns:
        product.panel(panel, columns, lambda row, v, total: outputs.store_vector(panel, columns[v], row, total))


class _IntegerRows:
    def __init__(self, weight: PackedWeight, rows: E.Expr, activations: IntegerActivations) -> None:
        self.weight, self.isa, self.rows = weight, weight.isa, rows
        self.dot = IntegerDot.of(weight.format, weight.isa, activations)
        self.tile = max(2, _SUMS * weight.isa.lanes // PANEL)
        self.tiles = E.let((rows + (self.tile - 1)) // self.tile)
        self.most = -(-MOST_ROWS // self.tile) * self.tile
        self.activations = QuantizedRows(self.dot, weight.k, self.most)

    def quantize(self, x: E.Buffer) -> None:
        """Rounds the rows of X; rows that X doesn't have, up to a whole tile, are copies of its last one."""

        def quantize_row(row: E.Expr) -> None:
            self.activations.fill(x, E.let(E.minimum(row, self.rows - 1)), row)

        E.rows(E.let(self.tiles * self.tile), quantize_row, threshold=_SERIAL_ROWS)

    def panel(self, panel: E.Expr, columns: list[E.Expr], finish: E.TotalWriter) -> None:
        """Computes vectors of one panel for all rows; hands each to `finish(row, vector, sum)`."""
        lanes = self.isa.lanes
        totals = E.scratch((self.most, len(columns) * lanes))
        with E.serial(E.let(self.tiles * self.tile)) as row:
            for v in range(len(columns)):
                E.store(totals, [row, v * lanes], E.const(0, lanes), lanes)
        with E.serial(self.activations.whole) as group:
            self.group(panel, group, self.dot.group, columns, totals)
        if self.activations.rest:
            self.group(panel, E.i32(self.activations.whole), self.activations.rest, columns, totals)
        with E.serial(self.rows) as row:
            for v in range(len(columns)):
                finish(row, v, E.Register(lanes, initial=E.load(totals, [row, v * lanes], lanes)))

    def group(self, panel: E.Expr, group: E.Expr, extent: int, columns: list[E.Expr], totals: E.Buffer) -> None:
        """Adds `extent` K of a group of activations, for all rows."""
        weight, dot, lanes = self.weight, self.dot, self.isa.lanes
        first = E.let(group * (dot.group // dot.words))
        steps = -(-extent // dot.words)
        # always `steps`, which LLVM can't know: it would unroll the loop, keep all unpacked weights, and spill them
        count = E.let(E.minimum(self.rows * steps, E.i64(steps)))
        stored = dot.weight_group(group)
        factors = [E.let(weight.scale(panel, stored, column, lanes)) for column in columns]
        zeros = [E.let(weight.zero(panel, stored, column, lanes)) for column in columns]
        with E.serial(self.tiles) as tile:
            top = E.let(tile * self.tile)
            sums = [[dot.sums() for _ in columns] for _ in range(self.tile)]
            for register in (register for vectors in sums for register in vectors):
                register.zero()
            with E.serial(count) as step:
                self.step(panel, E.let(first + step), top, columns, sums)
            for row, vectors in enumerate(sums):
                scale = E.let(E.splat(E.load(self.activations.scales, [top + row, group]), lanes))
                negative = E.let(E.splat(E.load(self.activations.counts, [top + row, group]), lanes))
                for v, register in enumerate(vectors):
                    place = [top + row, v * lanes]
                    centered = E.fma(zeros[v], negative, dot.total([register]), lanes)
                    total = E.fma(centered, factors[v] * scale, E.load(totals, place, lanes), lanes)
                    E.store(totals, place, total, lanes)

    def step(
        self, panel: E.Expr, word: E.Expr, top: E.Expr, columns: list[E.Expr], sums: list[list[E.Register]]
    ) -> None:
        """Adds one weight word of every output, to the rows of a tile from `top` on."""
        weight, dot, lanes = self.weight, self.dot, self.isa.lanes
        weight.prefetch(panel, word)
        units = [
            [
                dot.activation(self.activations.codes, [top + row, word * dot.words + unit * dot.unit])
                for unit in range(dot.units)
            ]
            for row in range(self.tile)
        ]
        for v, column in enumerate(columns):
            operands = dot.operands(E.let(weight.word(panel, word, column, lanes)))
            for row, vectors in enumerate(sums):
                for unit, operand in enumerate(operands):
                    dot.multiply_add(operand, units[row][unit], vectors[v])
