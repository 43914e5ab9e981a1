"""How kernels cut their work: the numbers that are not the algorithm's and may be searched for on a machine.

The defaults were measured on Zen 3 and are what every kernel has unless it is tuned (`backend.compile.tune`). Other
values give the same results but for the order of float32 sums. This module does not import tvm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from xamc.artifact.packing import WeightFormat, WeightKind
from xamc.artifact.records import from_json, to_json


@dataclass(frozen=True)
class LinearTiles:
    """Of a linear layer.

    Attributes:
        unroll: K values per chunk of a GEMV with float32 activations: a multiple of 8.
        words: K steps (`packing.py`) per iteration of a GEMV's innermost loop: with one, requests for later weights
            stay spread among the arithmetic.
        ahead: bytes that lie between the weights a GEMV multiplies and those it asks the caches for. Half or twice as
            many cost a few percent on Zen 3.
        block_rows: most rows of X that a task of a GEMM multiplies, about: cut to whole register tiles. 240 KiB of
            float32 by default, half of the second-level cache of common parts.
        block_k: input features of a GEMM's block along K: a multiple of every group size.
        tile_rows, tile_vectors: the register tile of a GEMM, rows of X times vectors of outputs; None is what fills
            the registers of a CPU level.
    """

    unroll: int = 32
    words: int = 1
    ahead: int = 2048
    block_rows: int = 240
    block_k: int = 256
    tile_rows: int | None = None
    tile_vectors: int | None = None


@dataclass(frozen=True)
class AttentionTiles:
    """Of attention for many queries.

    Attributes:
        rows: rows (queries times heads of a group) of a task with many queries, about: cut to whole register tiles.
            None is 48, and 112 with vectors of 512 bits, whose tiles are taller: keys and values are widened once for
            all of them.
    """

    rows: int | None = None


KernelTiles = LinearTiles | AttentionTiles
DEFAULT_LINEAR = LinearTiles()
DEFAULT_ATTENTION = AttentionTiles()
Rows = Literal["one", "any"]


@dataclass(frozen=True)
class LinearProblem:
    """What decides about the best tiles of a linear layer: N, K, how weights are stored, and one or any rows of X."""

    n: int
    k: int
    kind: WeightKind
    group_size: int | None
    m: Rows

    @staticmethod
    def of(n: int, k: int, fmt: WeightFormat, m: Rows) -> LinearProblem:
        """The problem of a layer with weights of a format."""
        return LinearProblem(n, k, fmt.kind, fmt.group_size, m)

    @property
    def format(self) -> WeightFormat:
        """How the weights are stored."""
        return WeightFormat(self.kind, self.group_size)

    def __str__(self) -> str:
        group = f"_g{self.group_size}" if self.group_size else ""
        return f"linear_{self.m}_{self.n}x{self.k}_{self.kind}{group}"


@dataclass(frozen=True)
class AttentionProblem:
    """What decides about the best tiles of attention for many queries: heads, KV heads, D, and the cache."""

    heads: int
    kv_heads: int
    d: int
    kv_dtype: Literal["float32", "float16", "bfloat16", "int8"]
    window: int | None

    def __str__(self) -> str:
        window = f"_w{self.window}" if self.window else ""
        return f"attention_any_{self.heads}_{self.kv_heads}x{self.d}_{self.kv_dtype}{window}"


Problem = LinearProblem | AttentionProblem


@dataclass(frozen=True)
class TileChoice:
    """The tiles of a module's kernels; problems that are not listed have the defaults."""

    linear: Mapping[LinearProblem, LinearTiles] = field(default_factory=dict)
    attention: Mapping[AttentionProblem, AttentionTiles] = field(default_factory=dict)

    def of_linear(self, n: int, k: int, fmt: WeightFormat, m: Rows) -> LinearTiles:
        """The tiles of a linear layer."""
        return self.linear.get(LinearProblem.of(n, k, fmt, m), DEFAULT_LINEAR)

    def of_attention(self, problem: AttentionProblem) -> AttentionTiles:
        """The tiles of an attention kernel."""
        return self.attention.get(problem, DEFAULT_ATTENTION)

    @staticmethod
    def of(chosen: Mapping[Problem, KernelTiles]) -> TileChoice:
        """From tiles by problem."""
        linear, attention = {}, {}
        for problem, tiles in chosen.items():
            if isinstance(problem, LinearProblem) and isinstance(tiles, LinearTiles):
                linear[problem] = tiles
            elif isinstance(problem, AttentionProblem) and isinstance(tiles, AttentionTiles):
                attention[problem] = tiles
        return TileChoice(linear, attention)

    @staticmethod
    def from_json(entries: list[list[Any]]) -> TileChoice:
        """What `to_json` wrote."""
        return TileChoice.of({problem_from_json(p): tiles_from_json(p, t) for p, t in entries})

    def to_json(self) -> list[list[Any]]:
        """Pairs of a problem and its tiles, in an order that does not depend on that of the mappings."""
        both: list[tuple[Problem, KernelTiles]] = [*self.linear.items(), *self.attention.items()]
        return [[to_json(problem), to_json(tiles)] for problem, tiles in sorted(both, key=lambda entry: str(entry[0]))]


DEFAULT_CHOICE = TileChoice()


def problem_from_json(value: Mapping[str, Any]) -> Problem:
    """A problem as `to_json` writes it."""
    return from_json(AttentionProblem, value) if "heads" in value else from_json(LinearProblem, value)


def tiles_from_json(problem: Mapping[str, Any], value: Mapping[str, Any]) -> KernelTiles:
    """The tiles of a problem, both as `to_json` writes them."""
    return from_json(AttentionTiles, value) if "heads" in problem else from_json(LinearTiles, value)


def changes(tiles: KernelTiles) -> dict[str, tuple[int | None, int | None]]:
    """The parameters that differ from the default: name -> (default, here)."""
    default = type(tiles)()
    pairs = {f.name: (getattr(default, f.name), getattr(tiles, f.name)) for f in fields(tiles)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
