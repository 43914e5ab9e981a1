"""Reading packed weights inside a kernel."""

from __future__ import annotations

from xamc.artifact.packing import WeightFormat, packed_layout
from xamc.artifact.panels import PANEL
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.tiles import DEFAULT_LINEAR, LinearTiles


class PackedWeight:
    """The parameters of one packed weight of N output and K input features, and how to take values out of them.

    `tiles` is how the kernel that reads it goes through it.
    """

    def __init__(self, n: int, k: int, fmt: WeightFormat, isa: Isa, tiles: LinearTiles = DEFAULT_LINEAR) -> None:
        self.n, self.k, self.format, self.isa, self.tiles = n, k, fmt, isa, tiles
        self.layout = packed_layout(n, k, fmt)
        self.buffers = {b.name: E.parameter(b.name, b.shape, b.dtype) for b in self.layout.buffers}
        self.group = fmt.group_size or k

    def word(self, panel: E.Expr, step: E.Expr, row: E.Expr | int, lanes: int) -> E.Expr:
        """What is stored for K step `step` of rows [row, row + lanes): floats, or a 32-bit word per row."""
        weight = self.buffers["weight"]
        if self.format.kind in ("float32", "float16"):
            return E.load_float(weight, [panel, step, row], lanes, self.isa)
        per_row = 2 if self.format.kind == "bfloat16" else 4
        narrow = E.load(weight, [panel, step, row, 0], lanes * per_row)
        return E.bits(narrow, "uint32", lanes)

    def prefetch(self, panel: E.Expr, step: E.Expr, panels: int = 1) -> None:
        """Asks for the weights that lie `tiles.ahead` bytes behind K step `step`, in this panel or a later one.

        A GEMV has too much arithmetic between its loads for the reorder buffer to keep enough of them under way. One
        that goes through several panels at a time has that many bytes under way in all of them together.
        """
        weight = self.buffers["weight"]
        per_step = self.layout.buffers[0].panel_bytes // int(weight.shape[1])
        rows = PANEL * 64 // per_step
        for row in range(0, PANEL, rows):
            index = [panel, step + self.tiles.ahead // panels // per_step, row]
            E.prefetch(weight, index if len(weight.shape) == 3 else [*index, 0])

    def prefetch_group(self, panel: E.Expr, group: E.Expr, panels: int = 1) -> None:
        """Asks for scales and zero points that lie twice as far ahead as weights, so that they are there with them."""
        if self.format.group_size is None:
            return
        per_group = self.layout.buffers[0].panel_bytes // int(self.buffers["scale"].shape[1])
        ahead = max(1, 2 * self.tiles.ahead // panels // per_group)
        for buffer in self.layout.buffers[1:]:
            E.prefetch(self.buffers[buffer.name], [panel, group + ahead, 0])

    def prefetch_share(self, panel: E.Expr, step: E.Expr, steps: int, share: E.Expr, shares: E.Expr) -> None:
        """Asks for one of equal shares of the weights of `steps` K steps from `step` on, in this panel or the next.

        A GEMM that has few rows to multiply its weights with would wait for memory whenever it comes to new ones.
        """
        weight = self.buffers["weight"]
        per_step = self.layout.buffers[0].panel_bytes // int(weight.shape[1])
        lines = steps * per_step // 64
        count = E.let((lines + shares - 1) // shares)
        with E.serial(count) as line:
            at = E.let((share * count + line) * 64)
            row = at % per_step * PANEL // per_step
            index = [panel, step + at // per_step, row]
            E.prefetch(weight, index if len(weight.shape) == 3 else [*index, 0])

    def value(self, word: E.Expr, offset: int, lanes: int) -> E.Expr:
        """The float32 value (integers unscaled) at K offset `offset` of a K step's word."""
        kind = self.format.kind
        if kind in ("float32", "float16"):
            return word
        if kind == "bfloat16":
            high = word & E.const(0xFFFF0000, lanes, "uint32")
            return E.bits(high if offset else word << E.const(16, lanes, "uint32"), "float32", lanes)
        bits = 8 if kind == "int8" else 4
        shift = self.bit(offset)
        shifted = word >> E.const(shift, lanes, "uint32") if shift else word
        if shift + bits < 32:
            shifted = shifted & E.const(2**bits - 1, lanes, "uint32")
        return self.integer(shifted, lanes)

    def in_place(self, word: E.Expr, offset: int, lanes: int) -> tuple[E.Expr, int]:
        """Like `value`, times 2**exponent: the integer is left where it lies in its word, which saves a shift."""
        kind = self.format.kind
        if not self.format.quantized:
            return self.value(word, offset, lanes), 0
        bits = 8 if kind == "int8" else 4
        shift = self.bit(offset)
        if shift + bits == 32:  # the sign bit of the conversion is in the way
            return self.value(word, offset, lanes), 0
        mask = E.const((2**bits - 1) << shift, lanes, "uint32")
        return self.integer(word & mask, lanes), shift

    def bit(self, offset: int) -> int:
        """Position of the lowest bit of K offset `offset` in its word."""
        if self.format.kind == "int8":
            return 8 * offset
        return 8 * (offset % 4) + 4 * (offset // 4)

    @staticmethod
    def integer(word: E.Expr, lanes: int) -> E.Expr:
        """A non-negative int32 as float32 (the signed conversion is the one that every level has)."""
        return E.cast(E.bits(word, "int32", lanes), "float32", lanes)

    def scale(self, panel: E.Expr, group: E.Expr, row: E.Expr | int, lanes: int) -> E.Expr:
        return E.load_float(self.buffers["scale"], [panel, group, row], lanes, self.isa)

    def zero(self, panel: E.Expr, group: E.Expr, row: E.Expr | int, lanes: int) -> E.Expr:
        """The place of 0.0 among the stored numbers, as float32."""
        if self.format.kind == "int8":
            return E.const(128.0, lanes)
        return E.load_float(self.buffers["zero"], [panel, group, row], lanes, self.isa)

    def panel_rows(self) -> range:
        """First rows of a panel's vectors."""
        return range(0, PANEL, self.isa.lanes)
