"""Where a GEMM's task adds up its part of the output, and how that part gets into Y."""

from __future__ import annotations

from xamc.compiler.artifact.panels import PANEL
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.weights import PackedWeight


class GemmOutput:
    """The sums of a block of rows and one panel, in memory of their own.

    Blocks along K come back to them again and again; in Y itself, whose rows are often a multiple of a large power of
    two apart, they would evict each other from the caches.
    """

    def __init__(
        self, weight: PackedWeight, bias: E.Buffer | None, residual: E.Buffer | None, y: E.Buffer, rows: int
    ) -> None:
        """Allocates the sums float32 [rows, 32]; to be called inside of the task."""
        self.n, self.isa = weight.n, weight.isa
        self.bias, self.residual, self.y = bias, residual, y
        self.sums = E.scratch((rows, PANEL))

    def clear(self, rows: E.Expr) -> None:
        """Sets the sums of the first `rows` rows to zero."""
        with E.serial(rows) as row:
            for column in range(0, PANEL, self.isa.lanes):
                E.store(self.sums, [row, column], E.const(0, self.isa.lanes), self.isa.lanes)

    def write(self, panel: E.Expr, first: E.Expr, rows: E.Expr, scale: E.LaneReader | None = None) -> None:
        """Y = sums * scale + bias + residual for `rows` rows from `first` on, without what pads the last panel.

        `scale` yields the factors of columns from an offset in the panel on.
        """
        lanes = self.isa.lanes

        def put(row: E.Expr, column: E.Expr, width: int) -> None:
            i, at = E.let(first + row), E.let(panel * PANEL + column)
            value = E.load(self.sums, [row, column], width)
            if scale is not None:
                value = value * scale(column, width)
            if self.bias is not None:
                value = value + E.load(self.bias, [at], width)
            if self.residual is not None:
                value = value + E.load(self.residual, [i, at], width)
            E.store(self.y, [i, at], value, width)

        def whole() -> None:
            with E.serial(rows) as row:
                for column in range(0, PANEL, lanes):
                    put(row, E.i32(column), lanes)

        def partial() -> None:
            with E.serial(rows) as row, E.serial(self.n % PANEL) as column:
                put(row, column, 1)

        if self.n % PANEL == 0:
            whole()
        else:
            E.when((panel + 1) * PANEL <= self.n, whole, partial)
