"""Where a GEMM's task adds up its part of the output, and how that part gets into Y."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xamc.artifact.panels import PANEL
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.swiglu import silu
from xamc.targets.kernels.weights import PackedWeight


@dataclass(frozen=True)
class Destination:
    """Where a product goes: y [M, N] = product + bias [N] + residual [M, N], or of a gate (see `linear`) y [M, N/2]."""

    y: E.Buffer
    bias: E.Buffer | None = None
    residual: E.Buffer | None = None
    gate: bool = False


class GemmOutput:
    """The sums of a block of rows and one panel, or a gate's two, in memory of their own.

    Blocks along K come back to them again and again; in Y itself, whose rows are often a multiple of a large power of
    two apart, they would evict each other from the caches.
    """

    def __init__(self, weight: PackedWeight, into: Destination, rows: int) -> None:
        """Allocates the sums float32 [rows, 32], twice of it for a gate; to be called inside of the task."""
        self.n, self.isa = weight.n, weight.isa
        self.into, self.gate = into, into.gate
        self.panels, self.rows = weight.layout.panels, rows
        self.sums = E.scratch((2 * rows if self.gate else rows, PANEL))

    def add_up(self, panel: E.Expr, rows: E.Expr, multiply: Callable[[E.Expr, E.Expr, E.Expr], None]) -> None:
        """Clears the sums of `rows` rows and adds up a panel's products, then those of the panel that a gate opens.

        Args:
            panel: the task's.
            rows: of the task.
            multiply: adds a panel's products up, from a row of the sums on; it is given the panel whose weights are
                wanted next.
        """
        if not self.gate:
            self._clear(rows, E.i32(0))
            multiply(panel, panel + 1, E.i32(0))
            return
        half = self.panels // 2
        with E.serial(2) as side:
            base = E.let(side * self.rows)
            self._clear(rows, base)
            multiply(E.let(panel + side * half), E.let(panel + E.choose(side == 0, E.i32(half), E.i32(1))), base)

    def scale(self, base: E.Expr, rows: E.Expr, factors: E.LaneReader) -> None:
        """Multiplies the sums of `rows` rows from `base` on; `factors` yields those of columns from an offset on."""
        lanes = self.isa.lanes
        with E.serial(rows) as row:
            for column in range(0, PANEL, lanes):
                value = E.load(self.sums, [base + row, column], lanes) * factors(E.i32(column), lanes)
                E.store(self.sums, [base + row, column], value, lanes)

    def _clear(self, rows: E.Expr, base: E.Expr) -> None:
        with E.serial(rows) as row:
            for column in range(0, PANEL, self.isa.lanes):
                E.store(self.sums, [base + row, column], E.const(0, self.isa.lanes), self.isa.lanes)

    def write(self, panel: E.Expr, first: E.Expr, rows: E.Expr, scale: E.LaneReader | None = None) -> None:
        """Y = sums * scale + bias + residual for `rows` rows from `first` on, without what pads the last panel.

        `scale` yields the factors of columns from an offset in the panel on. Of a gate, Y = silu(sums) * others.
        """
        lanes = self.isa.lanes

        def put(row: E.Expr, column: E.Expr, width: int) -> None:
            i, at = E.let(first + row), E.let(panel * PANEL + column)
            value = E.load(self.sums, [row, column], width)
            if self.gate:
                value = silu(E.let(value), width) * E.load(self.sums, [E.let(self.rows + row), column], width)
            if scale is not None:
                value = value * scale(column, width)
            if self.into.bias is not None:
                value = value + E.load(self.into.bias, [at], width)
            if self.into.residual is not None:
                value = value + E.load(self.into.residual, [i, at], width)
            E.store(self.into.y, [i, at], value, width)

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
