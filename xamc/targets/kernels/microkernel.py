"""The register tile that GEMM and blocked attention are made of, and the arithmetic it is made of.

A tile multiplies `rows` rows of A, read element by element and broadcast, with `vectors` vectors of B, and keeps the
rows x vectors sums in registers. An arithmetic says what one step along K is: one float32 multiply-add, or a pair of
bfloat16 products added in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.tiles import LinearTiles

UNROLLED = 4
"""Steps along K per iteration of a tile's loop, which LLVM leaves as it is: fewer instructions that are no arithmetic,
which counts where another thread has half of the core."""

# TVM turns every bfloat16 value of TensorIR into integers before LLVM sees it, so the instruction, whose operands are
# LLVM's own bfloat type, is wrapped in a function of LLVM IR that is inlined.
_BF16_DOT = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define <16 x float> @xamc_dpbf16ps(<16 x float> %sum, <16 x i32> %a, <16 x i32> %b) alwaysinline {
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %sum, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %r
}
"""


@dataclass(frozen=True)
class TileArithmetic:
    """How products are accumulated in a tile.

    Attributes:
        name: for kernel names and messages.
        k: elements along K that one step takes.
        dtype: of a step's operands: float32, or uint32 holding two bfloat16 (the lower half is the even K).
        multiply_add: (a, b, sum, lanes) -> sum + a * b.
        scope: entered around the kernel's body.
    """

    name: str
    k: int
    dtype: str
    multiply_add: Callable[[E.Expr, E.Expr, E.Expr, int], E.Expr]
    scope: Callable[[], AbstractContextManager[object]]


def _bf16_dot(a: E.Expr, b: E.Expr, total: E.Expr, lanes: int) -> E.Expr:
    return T.call_extern(E.vector("float32", lanes), "xamc_dpbf16ps", total, a, b)


def _bf16_dot_emulated(a: E.Expr, b: E.Expr, total: E.Expr, lanes: int) -> E.Expr:
    """vdpbf16ps in plain instructions: the odd products are added first, then the even ones, each fused."""
    a, b = E.let(a), E.let(b)
    for half in (_high_half, _low_half):
        total = E.fma(half(a, lanes), half(b, lanes), total, lanes)
    return total


def _low_half(pair: E.Expr, lanes: int) -> E.Expr:
    return E.bits(pair << E.const(16, lanes, "uint32"), "float32", lanes)


def _high_half(pair: E.Expr, lanes: int) -> E.Expr:
    return E.bits(pair & E.const(0xFFFF0000, lanes, "uint32"), "float32", lanes)


@contextmanager
def _import_bf16_dot() -> Iterator[None]:
    with T.attr(0, "pragma_import_llvm", _BF16_DOT):
        yield


FLOAT32 = TileArithmetic("fp32", 1, "float32", E.fma, nullcontext)
BF16_DOT = TileArithmetic("bf16", 2, "uint32", _bf16_dot, _import_bf16_dot)
BF16_DOT_EMULATED = TileArithmetic("bf16", 2, "uint32", _bf16_dot_emulated, nullcontext)


def bf16_arithmetic(isa: Isa) -> TileArithmetic | None:
    """The bfloat16 dot product of a level, if it has one."""
    if isa.emulate_bf16_dot:
        return BF16_DOT_EMULATED
    return BF16_DOT if isa.has_bf16_dot else None


def tile_size(isa: Isa) -> tuple[int, int]:
    """Rows and vectors of the largest tile: the sums, the vectors of B and one broadcast fill the registers."""
    return ((isa.registers - 4) // 2, 2)


def register_tile(isa: Isa, tiles: LinearTiles) -> tuple[int, int]:
    """Rows and vectors of the register tile that `tiles` asks for."""
    rows, vectors = tile_size(isa)
    return tiles.tile_rows or rows, tiles.tile_vectors or vectors


def row_tiles(isa: Isa, tallest: int | None = None) -> tuple[int, ...]:
    """Heights of tiles, descending, that any number of rows can be cut into."""
    full = tallest or tile_size(isa)[0]
    return tuple(dict.fromkeys((full, max(1, full // 3), 1)))


def cut_rows(count: E.Expr, sizes: Sequence[int], body: Callable[[E.Expr, int], None]) -> None:
    """Runs `body(first row, height)` over `count` rows, with tiles of the given descending heights."""
    done: E.Expr = 0
    for size in sizes:
        tiles = E.let((count - done) // size)
        with E.serial(tiles) as index:
            body(E.let(index * size + done), size)
        done = E.let(tiles * size + done)


def emit_tile(
    arithmetic: TileArithmetic,
    rows: int,
    vectors: int,
    lanes: int,
    steps: E.Expr,
    a: Callable[[int, E.Expr], E.Expr],
    b: Callable[[E.Expr, int], E.Expr],
    sums: list[list[E.Register]],
    ahead: Callable[[E.Expr], None] | None = None,
) -> None:
    """Adds `steps` steps along K to the sums of a tile, `UNROLLED` at a time.

    Args:
        arithmetic: what a step is.
        rows: rows of A.
        vectors: vectors of B.
        lanes: elements of a vector.
        steps: number of steps, an expression.
        a: (row, step) -> scalar of `arithmetic.dtype`.
        b: (step, vector) -> vector of `arithmetic.dtype`.
        sums: [rows][vectors] registers, already initialized.
        ahead: emitted in every iteration, with its number: requests for what comes after this tile.
    """

    def add(k: E.Expr) -> None:
        right = [E.let(b(k, v)) for v in range(vectors)]
        for row in range(rows):
            left = E.let(E.splat(a(row, k), lanes))
            for v in range(vectors):
                register = sums[row][v]
                register.set(arithmetic.multiply_add(left, right[v], register.get(), lanes))

    with E.serial(E.let(steps // UNROLLED)) as iteration:
        if ahead:
            ahead(iteration)
        for i in range(UNROLLED):
            add(E.let(iteration * UNROLLED + i))
    with E.serial(steps % UNROLLED) as rest:
        add(E.let(steps // UNROLLED * UNROLLED + rest))
