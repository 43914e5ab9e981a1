"""What is worth trying for a kernel: one parameter changed at a time, then the best of each together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.tiles import AttentionTiles, KernelTiles, LinearProblem, LinearTiles, Problem, changes

_UNROLLS = (16, 64)
_WORDS = (2, 4)
_DISTANCES = (1024, 4096, 8192)
_BLOCK_ROWS = (96, 144, 384)
_BLOCK_K = (128, 512)
# rows x vectors of a register tile, by lanes of a vector and registers: what fits beside the vectors of B and the
# broadcast, and cuts a panel of 32 outputs evenly
_REGISTER_TILES = {
    (4, 16): ((4, 2), (2, 4)),
    (8, 16): ((4, 2), (2, 4)),
    (4, 32): ((8, 2), (6, 4)),
    (16, 32): ((8, 2), (12, 2)),
}
_ATTENTION_ROWS = (24, 48, 96, 192)


def first_round(problem: Problem, isa: Isa, activations: str) -> list[KernelTiles]:
    """Tiles with one parameter other than the default's, each; a register tile counts as one.

    Args:
        problem: the kernel.
        isa: the level it is generated for.
        activations: what integer weights are multiplied with, float32, int8 or int16.
    """
    if isinstance(problem, LinearProblem):
        return list(_linear(problem, isa, activations))
    return [AttentionTiles(rows) for rows in _ATTENTION_ROWS]


def _linear(problem: LinearProblem, isa: Isa, activations: str) -> Iterator[LinearTiles]:
    default = LinearTiles()
    if problem.m == "one":
        yield from (replace(default, words=words) for words in _WORDS)
        if problem.group_size is None and not (activations in ("int8", "int16") and problem.format.quantized):
            yield from (replace(default, unroll=unroll) for unroll in _UNROLLS)
        yield from (replace(default, ahead=ahead) for ahead in _DISTANCES)
        return
    yield from (replace(default, block_rows=rows) for rows in _BLOCK_ROWS)
    yield from (replace(default, block_k=k) for k in _BLOCK_K)
    for rows, vectors in _REGISTER_TILES[isa.lanes, isa.registers]:
        yield replace(default, tile_rows=rows, tile_vectors=vectors)


def combined(best: Sequence[KernelTiles]) -> KernelTiles | None:
    """All changes of `best` together, the first one's where several change the same parameter.

    Returns:
        None where that is one of `best`.
    """
    if not best:
        return None
    merged = best[0]
    for tiles in best[1:]:
        taken = changes(merged)
        news = {name: pair[1] for name, pair in changes(tiles).items()}
        if not taken.keys() & news.keys():
            merged = replace(merged, **news)  # type: ignore[arg-type]
    return None if merged in best else merged
