"""Which graphs the ATC route makes for a request, what each takes, and the gears it can be driven in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from xamc.model.bucket import Bucket
from xamc.model.config import ModelConfig
from xamc.passes.graph.cache_rows import CacheRows
from xamc.passes.graph.kv_cache import cache_key, cache_value
from xamc.targets.ascend.request import AscendRequest


@dataclass(frozen=True)
class Gear:
    """One choice of a graph's sizes.

    Attributes:
        batch: sequences per call.
        length: tokens of a prefill, or slots that a decode step looks at.
    """

    batch: int
    length: int


@dataclass(frozen=True)
class GearGraph:
    """One ONNX file. With one gear all its shapes are numbers, with several its sizes are symbols.

    Attributes:
        name: of the file, without .onnx.
        bucket: phase and longest length.
        gears: what it can be driven in, at least one.
        rows, capacity: sequences and slots of the KV cache.
    """

    name: str
    bucket: Bucket
    gears: tuple[Gear, ...]
    rows: int
    capacity: int

    @property
    def kind(self) -> Literal["prefill", "decode"]:
        """The phase."""
        return self.bucket.kind

    @property
    def is_static(self) -> bool:
        """Whether all sizes are numbers."""
        return len(self.gears) == 1

    @property
    def batch(self) -> int | None:
        """Sequences per call, where all gears agree."""
        batches = {gear.batch for gear in self.gears}
        return batches.pop() if len(batches) == 1 and (self.is_static or self.kind == "prefill") else None

    @property
    def length(self) -> int | None:
        """Tokens or slots of a static graph."""
        return self.gears[0].length if self.is_static else None

    def cache_rows(self, twin: bool = False) -> CacheRows:
        """The pass that gives the graph its form; that of the twin has a batch of its own, its bucket's sizes follow
        from the proof's calls."""
        batch = self.batch if not twin or self.batch is None else TWIN_BATCH
        length = self.length if not twin or self.length is None else self.bucket.length
        return CacheRows(self.kind, self.capacity, self.rows, batch, length)

    def inputs(self, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """Input name → shape, -1 where gears decide, sorted by name as GE sorts them."""
        batch = self.batch or -1
        shapes: dict[str, tuple[int, ...]] = {
            "tokens": (batch, 1 if self.kind == "decode" else self.length or -1),
            "batch_index": (batch,),
            "batch_valid_length": (batch,),
        }
        if self.kind == "decode" and not self.is_static:
            shapes["zactivate_len"] = (-1,)
        cache = (self.rows, self.capacity, config.num_kv_heads, config.head_dim)
        for layer in range(config.num_layers):
            shapes |= {cache_key(layer): cache, cache_value(layer): cache}
        return dict(sorted(shapes.items()))

    def dims(self, gear: Gear) -> tuple[int, ...]:
        """The values of the -1s of `inputs`, in their order."""
        if self.is_static:
            return ()
        if self.kind == "prefill":
            return (gear.length,)
        return (gear.batch, gear.batch, gear.batch, gear.length)


#: rows of a call in the proof, and rows of its cache: one more than are used
TWIN_BATCH, TWIN_ROWS = 3, 4


def shape_text(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """As ATC and GE write shapes: ``batch_index:-1;tokens:-1,1``."""
    return ";".join(f"{name}:{','.join(map(str, shape))}" for name, shape in shapes.items())


def dims_text(graph: GearGraph) -> str:
    """As ATC and GE write gears: ``1,1,1,512;4,4,4,2048``."""
    return ";".join(",".join(map(str, graph.dims(gear))) for gear in graph.gears)


def graphs_of(request: AscendRequest) -> tuple[GearGraph, ...]:
    """The graphs of a request: one per length, or with gears one per phase."""
    rows, gears = request.rows, request.gears
    prefill = sorted(bucket.length for bucket in request.buckets if bucket.kind == "prefill")
    total = sorted(bucket.length for bucket in request.buckets if bucket.kind == "decode")
    capacity = total[-1]
    if not gears:
        return (
            *(GearGraph(f"prefill_{n}", Bucket("prefill", n), (Gear(1, n),), rows, capacity) for n in prefill),
            *(GearGraph(f"decode_{n}", Bucket("decode", n), (Gear(rows, n),), rows, capacity) for n in total),
        )
    of_prefill = tuple(Gear(1, length) for length in prefill)
    return (
        GearGraph("prefill", Bucket("prefill", prefill[-1]), of_prefill, rows, capacity),
        GearGraph("decode", Bucket("decode", capacity), tuple(Gear(*gear) for gear in gears), rows, capacity),
    )
