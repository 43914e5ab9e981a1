"""The ATC route's graph passes: once for all, then per graph; what comes out is float16 in operators of opset 14."""

from __future__ import annotations

from dataclasses import replace

from xamc.ir.weights.kv_scales import KvScales
from xamc.model.bucket import Bucket
from xamc.passes.graph.cache_rows import CacheRows
from xamc.passes.graph.causal_mask import CausalMask
from xamc.passes.graph.eager_attention import EagerAttention
from xamc.passes.graph.fp16_clamp import Fp16Clamp
from xamc.passes.graph.half_precision import HalfPrecision
from xamc.passes.graph.last_position import LastPosition
from xamc.passes.graph.rope_table import RopeTables
from xamc.passes.graph.standard_ops import StandardOps
from xamc.passes.graph.weight_storage import WeightStorage
from xamc.passes.pipeline import Pipeline
from xamc.passes.protocol import GraphPass
from xamc.targets.ascend.gears import TWIN_ROWS, graphs_of
from xamc.targets.ascend.request import AscendRequest
from xamc.targets.buckets import common_passes

OPSET = 14
_REQUIRED = (
    "cleanup",
    "last_position",
    "cache_rows",
    "causal_mask",
    "rope_table",
    "eager_attention",
    "fp16_clamp",
    "weight_storage",
    "half_precision",
    "standard_ops",
)


def gear_passes(rows: CacheRows) -> list[GraphPass]:
    """One graph, from what `common_passes` left to what ATC reads.

    Args:
        rows: the pass that gives the graph its phase and sizes.
    """
    return [
        *([LastPosition()] if rows.kind == "prefill" else []),
        rows,
        CausalMask(),
        RopeTables(rows.capacity),
        EagerAttention(scale_query=True),
        Fp16Clamp(),
        WeightStorage("float16", vectors=True),
        HalfPrecision(),
        StandardOps(OPSET, tolerance="float16_rounding"),
    ]


def passes(request: AscendRequest) -> Pipeline:
    """The passes that a request needs, in order."""
    graphs = {graph.bucket: graph for graph in graphs_of(request)}

    def of_bucket(bucket: Bucket, rope_rows: int, kv_scales: KvScales | None) -> list[GraphPass]:
        return gear_passes(graphs[bucket].cache_rows())

    def of_twin(bucket: Bucket, rope_rows: int, kv_scales: KvScales | None) -> list[GraphPass]:
        like = next(graph for graph in graphs.values() if graph.kind == bucket.kind)
        twin = replace(like, bucket=bucket, rows=TWIN_ROWS, capacity=rope_rows)
        return gear_passes(twin.cache_rows(twin=True))

    return Pipeline(
        common=common_passes(),
        of_bucket=of_bucket,
        buckets=tuple(graphs),
        shared_tables=True,
        required=_REQUIRED,
        of_twin=of_twin,
    )
