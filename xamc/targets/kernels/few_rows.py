"""Y = X W^T for 2 to 32 rows of activations: a batch that decodes, a short chunk of a prompt.

The packed weights are streamed once, in the order in which they lie, from two panels that lie apart as in `gemv.py`.
While a group of them is in the first-level cache it is multiplied with all rows, a register tile of rows and vectors
of outputs at a time: the tallest tile as often as it fits, and a smaller one for what is left. A row's sums are those
of its own activations in an order that no other row has a say in, so that its result is the same, bit for bit,
whatever the number of rows and whatever is in them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from xamc.artifact.panels import PANEL
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.gemv import Outputs
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.swiglu import silu
from xamc.targets.kernels.weights import PackedWeight

MOST_ROWS = 32
"""Beyond this a GEMM, which unpacks the weights once to a scratch, pays."""

Take = Callable[[int, str], E.Buffer]
"""Yields flat memory, uninitialized, for so many elements of a dtype in every row that the tiles cover."""


@dataclass(frozen=True)
class RowTile:
    """A register tile: neighbouring rows times vectors of a panel's outputs, and where their sums wait.

    Attributes:
        top: the first row.
        height: how many.
        columns: the vectors' first outputs in the panel.
        totals: float32 [2, rows, PANEL].
        which: the totals' first index.
        lanes: of a vector.
    """

    top: E.Expr
    height: int
    columns: list[E.Expr]
    totals: E.Buffer
    which: E.Expr
    lanes: int

    def sum(self, row: int, v: int) -> E.Expr:
        """The sums so far."""
        return E.load(self.totals, self._place(row, v), self.lanes)

    def put(self, row: int, v: int, value: E.Expr) -> None:
        """Stores sums."""
        E.store(self.totals, self._place(row, v), value, self.lanes)

    def _place(self, row: int, v: int) -> list[E.Expr]:
        return [self.which, self.top + row, self.columns[v]]


class RowArithmetic(ABC):
    """How rows of activations are kept and multiplied with a weight, a group of neighbouring K at a time.

    What all rows have in one group lies side by side, as a tile reads it.

    Attributes:
        weight: what they are multiplied with.
        padded: rows that the tiles cover.
        extent: K of a group.
        whole: groups of so many K.
        rest: K of one more group; 0 if there is none.
    """

    def __init__(self, weight: PackedWeight, padded: E.Expr, extent: int) -> None:
        self.weight, self.padded, self.extent = weight, padded, extent
        self.whole, self.rest = divmod(weight.k, extent)
        self.groups = self.whole + (self.rest > 0)

    def fill(self, x: E.Buffer, source: E.Expr | int, row: E.Expr) -> None:
        """Makes row `row` of what is multiplied of row `source` of x float32 [M, K]."""
        with E.serial(self.whole) as group:
            self.fill_group(x, source, row, group, self.extent)
        if self.rest:
            self.fill_group(x, source, row, E.i32(self.whole), self.rest)

    @abstractmethod
    def fill_group(self, x: E.Buffer, source: E.Expr | int, row: E.Expr, group: E.Expr, extent: int) -> None:
        """The same for one group, which has `extent` K."""

    @abstractmethod
    def multiply(self, panel: E.Expr, group: E.Expr, extent: int, tile: RowTile) -> None:
        """Adds the products of a group of `extent` K with a panel to the sums of a tile."""


class Heights:
    """The register tiles of a level, and how they cover a number of rows that is known at run time.

    Attributes:
        full: tiles of the greatest height.
        left: rows behind them, for one smaller tile; 0 or less if there are none.
        padded: rows that all tiles cover together.
    """

    def __init__(self, isa: Isa, rows: E.Expr) -> None:
        self.sums = isa.registers // 2
        self._isa = isa
        tallest = self.sums // 2
        self.each = [height for height in (8, 4, 2) if height <= tallest]
        first, second = self.each[:2]
        self.full = E.let((rows + (first - 1 - second)) // first)
        self.left = E.let(rows - self.full * first)
        # the height of the last tile: the smallest that is enough
        last = E.i64(0)
        for enough, height in zip([0, *reversed(self.each[2:])], reversed(self.each[1:])):
            last = E.choose(self.left > enough, E.i64(height), last)
        self.padded = E.let(self.full * first + last)

    def vectors(self, height: int) -> int:
        """Vectors of outputs beside so many rows."""
        return min(PANEL // self._isa.lanes, self.sums // height)

    def cover(self, emit: Callable[[E.Expr, int], None]) -> None:
        """Emits `emit(first row, height)` for the tiles of all rows."""
        first, *smaller = self.each
        with E.serial(self.full) as tile:
            emit(E.let(tile * first), first)

        def rest(heights: list[int]) -> None:
            top = self.full * first
            height, *more = heights
            if more:
                E.when(self.left > more[0], lambda: emit(E.let(top), height), lambda: rest(more))
            else:
                E.when(self.left > 0, lambda: emit(E.let(top), height))

        rest(smaller)


class FewRows:
    """Multiplies panels of a weight with all rows."""

    def __init__(
        self, outputs: Outputs, arithmetic: RowArithmetic, heights: Heights, rows: E.Expr, gate: bool = False
    ) -> None:
        """Args:
        outputs: where sums go; y [M, N], or [M, N/2] of a gate.
        arithmetic: whose rows are filled.
        heights: the tiles that cover them.
        rows: rows M, at most `MOST_ROWS`.
        gate: y is silu of W's first half times its second, without bias and residual.
        """
        self.outputs, self.arithmetic, self.heights, self.rows, self.gate = outputs, arithmetic, heights, rows, gate
        self.weight: PackedWeight = outputs.weight

    def emit(self, begin: E.Expr, count: E.Expr) -> None:
        """Multiplies the panels [begin, begin + count); those of a gate together with the ones of the other half."""
        apart = count if self.gate else E.let((count + 1) // 2)
        totals = E.scratch((2, MOST_ROWS, PANEL))
        with E.serial(apart) as step:
            first = E.let(begin + step)
            if self.gate:
                second, streams = E.let(first + self.weight.layout.panels // 2), E.i32(2)
            else:
                both = step + apart < count
                second = E.let(E.choose(both, first + apart, first))
                streams = E.let(E.choose(both, E.i32(2), E.i32(1)))
            self.sum(first, second, streams, totals)
            if self.gate:
                self.store_gated(first, totals)
            else:
                with E.serial(streams) as which:
                    self.store(E.let(E.choose(which == 0, first, second)), which, totals)

    def sum(self, first: E.Expr, second: E.Expr, streams: E.Expr, totals: E.Buffer) -> None:
        """The products of all K of two panels, or one."""
        arithmetic, lanes = self.arithmetic, self.weight.isa.lanes
        with E.serial(streams) as which, E.serial(self.heights.padded) as row:
            for column in self.weight.panel_rows():
                E.store(totals, [which, row, column], E.const(0, lanes), lanes)

        def group(index: E.Expr, extent: int) -> None:
            with E.serial(streams) as which:
                self.group(E.let(E.choose(which == 0, first, second)), which, index, extent, totals)

        with E.serial(arithmetic.whole) as index:
            group(index, arithmetic.extent)
        if arithmetic.rest:
            group(E.i32(arithmetic.whole), arithmetic.rest)

    def group(self, panel: E.Expr, which: E.Expr, index: E.Expr, extent: int, totals: E.Buffer) -> None:
        """Adds a group of K of one panel, for all rows."""
        lanes, arithmetic = self.weight.isa.lanes, self.arithmetic

        def tile(top: E.Expr, height: int) -> None:
            vectors = self.heights.vectors(height)
            with E.serial(PANEL // lanes // vectors) as part:
                columns = [E.let(part * (vectors * lanes) + v * lanes) for v in range(vectors)]
                arithmetic.multiply(panel, index, extent, RowTile(top, height, columns, totals, which, lanes))

        self.heights.cover(tile)

    def store(self, panel: E.Expr, which: E.Expr, totals: E.Buffer) -> None:
        """Stores a panel's sums."""
        lanes = self.weight.isa.lanes
        with E.serial(self.rows) as row:
            for column in self.weight.panel_rows():
                total = E.Register(lanes, initial=E.load(totals, [which, row, column], lanes))
                self.outputs.store_vector(panel, E.i32(column), row, total)

    def store_gated(self, panel: E.Expr, totals: E.Buffer) -> None:
        """Stores the gated sums of two panels."""
        lanes = self.weight.isa.lanes
        with E.serial(self.rows) as row:
            for column in self.weight.panel_rows():
                gate, up = (E.let(E.load(totals, [half, row, column], lanes)) for half in (0, 1))
                E.store(self.outputs.y, [row, panel * PANEL + column], silu(gate, lanes) * up, lanes)
