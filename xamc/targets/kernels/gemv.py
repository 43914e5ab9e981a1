"""y = x W^T for one row of activations: streams the packed weights once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from xamc.artifact.packing import PackedLayout
from xamc.artifact.panels import PANEL
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.swiglu import silu
from xamc.targets.kernels.threads import own_share
from xamc.targets.kernels.weights import PackedWeight

SERIAL_BYTES = 48 * 1024
"""Below this, waking the other threads costs more than they save."""


@contextmanager
def panel_columns(weight: PackedWeight, panels: int) -> Iterator[list[E.Expr]]:
    """A loop over the vectors of so many panels: the first columns of as many as have registers for their sums."""
    lanes = weight.isa.lanes
    vectors = PANEL // lanes
    at_once = min(vectors, max(1, weight.isa.registers // 2 // panels))
    if at_once == vectors:
        yield [E.i32(v * lanes) for v in range(vectors)]
        return
    with E.serial(vectors // at_once) as part:
        yield [E.let(part * (at_once * lanes) + v * lanes) for v in range(at_once)]


@dataclass(frozen=True)
class Total:
    """A vector of sums in memory, where they wait for the next chunk."""

    buffer: E.Buffer
    index: tuple[E.Expr | int, ...]
    lanes: int

    def get(self) -> E.Expr:
        """The sums so far."""
        return E.load(self.buffer, self.index, self.lanes)

    def clear(self) -> None:
        """Makes them 0."""
        E.store(self.buffer, self.index, E.const(0, self.lanes), self.lanes)

    def add(self, value: E.Expr) -> None:
        """Adds to them."""
        E.store(self.buffer, self.index, self.get() + value, self.lanes)

    def add_product(self, a: E.Expr, b: E.Expr) -> None:
        """Adds a * b to them."""
        E.store(self.buffer, self.index, E.fma(a, b, self.get(), self.lanes), self.lanes)


class Products(Protocol):
    """The arithmetic of a row of activations with panels of a weight, a chunk of neighbouring K at a time.

    Attributes:
        extent: K of a chunk.
        whole: chunks of so many K.
        rest: K of one more chunk; 0 if there is none.
    """

    extent: int
    whole: int
    rest: int

    def take(self, x: E.Buffer) -> None:
        """Prepares x [1, K]."""
        ...

    def add_chunk(self, panels: list[E.Expr], chunk: KChunk, columns: list[E.Expr], totals: list[list[Total]]) -> None:
        """Adds the products of some panels' vectors to totals [panel][vector]."""
        ...


@dataclass(frozen=True)
class KChunk:
    """A piece of K.

    Attributes:
        index: chunks before it.
        extent: its K.
        some: a positive number, one that LLVM can't know where it matters.
    """

    index: E.Expr
    extent: int
    some: E.Expr

    @contextmanager
    def loop(self, count: int) -> Iterator[E.Expr]:
        """A loop of so many iterations, which LLVM does not unroll.

        It would then move all requests for later weights behind the arithmetic, where they come in a rush, and keep
        more values than there are registers.
        """
        with E.serial(E.let(E.minimum(self.some * count, count))) as i:
            yield i


def emit_gemv(
    weight: PackedWeight,
    products: Products,
    x: E.Buffer,
    bias: E.Buffer | None,
    residual: E.Buffer | None,
    y: E.Buffer,
    *,
    gate: bool = False,
    launched: bool = False,
) -> None:
    """Emits the body of a GEMV; x [1, K], bias [N], residual and y [1, N].

    Args:
        weight: whose panels are multiplied.
        products: the arithmetic.
        x: the activations.
        bias: added, or None.
        residual: added, or None.
        y: the result.
        gate: y [1, N/2] is silu of W's first half times its second, without bias and residual.
        launched: this is a launch: every thread prepares x for itself, and streams its share of the panels.
    """
    products.take(x)
    panels = weight.layout.panels // (2 if gate else 1)
    outputs = Outputs(weight, bias, residual, y)
    if launched:
        _Panels(outputs, products, gate, panels_together(weight)).emit(*own_share(panels))
        return
    loop = E.serial if is_small(weight.layout) else E.parallel
    with loop(panels) as panel:
        _Panels(outputs, products, gate, 1).emit(panel, E.i32(1))


def is_small(layout: PackedLayout) -> bool:
    """Whether a weight is better multiplied by one thread than by others that have to be woken."""
    return layout.nbytes < SERIAL_BYTES


def panels_together(weight: PackedWeight) -> int:
    """Panels whose sums find registers at a time: two or one."""
    return 2 if 2 * PANEL // weight.isa.lanes <= weight.isa.registers // 2 else 1


class _Panels:
    """Goes through panels, two that lie apart at a time where registers allow.

    A core that reads on in two places gets more bytes per second from the memory than one that reads in one
    (docs/kernels.md): the hardware follows each of them ahead. The panels of a gate are apart anyway.
    """

    def __init__(self, outputs: Outputs, products: Products, gate: bool, together: int) -> None:
        self.outputs, self.products, self.gate = outputs, products, gate
        self.weight, self.together = outputs.weight, 2 if gate else together

    def emit(self, begin: E.Expr, count: E.Expr) -> None:
        """Multiplies the panels [begin, begin + count); those of a gate together with the ones of the other half."""
        apart = E.let((count + 1) // 2) if self.together == 2 and not self.gate else count
        with E.serial(apart) as step:
            panels = [E.let(begin + step)]
            both = step + apart < count
            if self.gate:
                panels.append(E.let(panels[0] + self.weight.layout.panels // 2))
            elif self.together == 2:
                # where there is no other one, the first one again, whose weights are at hand
                panels.append(E.let(E.choose(both, panels[0] + apart, panels[0])))
            with panel_columns(self.weight, self.together) as columns:
                totals = self.sum(panels, count, columns)
                self.finish(panels, both, columns, totals)

    def sum(self, panels: list[E.Expr], some: E.Expr, columns: list[E.Expr]) -> list[list[Total]]:
        """The products of all K: totals [panel][vector]."""
        products, lanes = self.products, self.weight.isa.lanes
        memory = E.scratch((self.together, len(columns) * lanes))
        totals = [
            [Total(memory, (panel, v * lanes), lanes) for v in range(len(columns))] for panel in range(self.together)
        ]
        for total in (t for panel in totals for t in panel):
            total.clear()
        with E.serial(products.whole) as index:
            products.add_chunk(panels, KChunk(index, products.extent, some), columns, totals)
        if products.rest:
            products.add_chunk(panels, KChunk(E.i32(products.whole), products.rest, some), columns, totals)
        return totals

    def finish(self, panels: list[E.Expr], both: E.Expr, columns: list[E.Expr], totals: list[list[Total]]) -> None:
        """Stores the sums of a chunk's panels, or the gated ones of two."""
        lanes = self.weight.isa.lanes
        sums = [[E.Register(lanes, initial=t.get()) for t in panel] for panel in totals]
        if self.gate:
            for gate, up in zip(*sums):
                gate.set(silu(E.let(gate.get()), lanes) * up.get())
        self.outputs.store(panels[0], columns, sums[0])
        if self.together == 2 and not self.gate:
            E.when(both, lambda: self.outputs.store(panels[1], columns, sums[1]))


@dataclass(frozen=True)
class Outputs:
    """Where the sums of a weight's panels go.

    Attributes:
        weight: whose rows are the outputs.
        bias: [N], added to every row, or None.
        residual: [M, N], added, or None.
        y: [M, N], the result.
    """

    weight: PackedWeight
    bias: E.Buffer | None
    residual: E.Buffer | None
    y: E.Buffer

    def store(self, panel: E.Expr, columns: list[E.Expr], totals: list[E.Register]) -> None:
        """Stores the sums of vectors of the only row."""
        for column, total in zip(columns, totals):
            self.store_vector(panel, column, 0, total)

    def store_vector(self, panel: E.Expr, column: E.Expr, row: E.Expr | int, total: E.Register) -> None:
        """Adds bias and residual to a vector of sums of one row and stores it, but for rows that pad the last panel."""
        lanes = self.weight.isa.lanes
        first = panel * PANEL + column

        def whole() -> None:
            value = total.get()
            if self.bias is not None:
                value = value + E.load(self.bias, [first], lanes)
            if self.residual is not None:
                value = value + E.load(self.residual, [row, first], lanes)
            E.store(self.y, [row, first], value, lanes)

        def tail() -> None:
            with E.serial(E.maximum(self.weight.n - first, 0)) as lane:
                value = E.load(total.buffer, [lane])
                if self.bias is not None:
                    value = value + E.load(self.bias, [first + lane])
                if self.residual is not None:
                    value = value + E.load(self.residual, [row, first + lane])
                E.store(self.y, [row, first + lane], value)

        if self.weight.n % PANEL == 0:
            whole()
        else:
            E.when(first + lanes <= self.weight.n, whole, tail)
