"""The VACC target's plan: bytes of every rank, and which graphs a die's memory can't hold.

Bytes of parameters are computed exactly as the files are written; activations are bounded from above by the largest
values that live at the same time. Nothing is read but headers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from xamc.jobs.progress import size
from xamc.model.bucket import Bucket
from xamc.model.config import ModelConfig
from xamc.model.layer import EMBEDDING_WEIGHT, HEAD_WEIGHT
from xamc.model.parameters import layer_of, parameter_shapes, part_of
from xamc.passes.graph.shard.plan import ShardPlan
from xamc.passes.graph.shard.roles import local_shape, role_of
from xamc.targets.planned import (
    BASE_BYTES,
    CODEGEN_BYTES,
    CODEGEN_BYTES_PER_LAYER,
    RUN_BYTES,
    PlannedFile,
    PlannedModel,
    PlannedStage,
    Table,
    TargetPlan,
    packing_stage,
)
from xamc.targets.vacc.names import GRAPH, LIBRARY, PARAMS, VOCAB_MULTIPLE
from xamc.targets.vacc.operator_counts import operator_counts
from xamc.targets.vacc.request import VaccRequest

_HALF = 2  # bytes of a float16
_SIMULATOR_BYTES = 700_000  # a bucket's code besides its calls
_JSON_BYTES_PER_NODE = 600
_BUCKET_SECONDS, _BUCKET_SECONDS_PER_LAYER = 12.0, 0.4


@dataclass(frozen=True)
class PlannedGraph:
    """One static graph of one rank; bytes.

    Attributes:
        bucket: its phase and length.
        parameters: weights and tables.
        cache: past and present keys and values, which the graph takes and gives.
        activations: what else lives at the same time, from above: hidden states, attention scores, logits.
        operators: how many of each the graph has.
        shares: the bucket whose parameter file it reads, its own when it is the first one to do so.
    """

    bucket: Bucket
    parameters: int
    cache: int
    activations: int
    operators: Mapping[str, int]
    shares: Bucket

    @property
    def nbytes(self) -> int:
        """What the die's memory must hold while the graph runs."""
        return self.parameters + self.cache + self.activations


@dataclass(frozen=True)
class StaticPlan:
    """What every rank holds; all ranks hold the same, as sizes that don't divide are padded."""

    ranks: int
    graphs: tuple[PlannedGraph, ...]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def count(self) -> int:
        """Graphs of all buckets and ranks."""
        return self.ranks * len(self.graphs)

    @property
    def rank_bytes(self) -> int:
        """Bytes of one rank's parameter files."""
        return sum(self.rank_bytes_of(graph) for graph in self.graphs if graph.shares == graph.bucket)

    def rank_bytes_of(self, graph: PlannedGraph) -> int:
        """Bytes of the parameter file that a graph of one rank reads."""
        return max(other.parameters for other in self.graphs if other.shares == graph.shares)


def plan(model: PlannedModel, request: VaccRequest) -> TargetPlan:
    """Files, stages, and what every die must hold.

    Raises:
        InputError: E1331, heads that can't be divided among the ranks.
    """
    config, static = model.config, static_plan(model.config, request)
    weights, count = static.ranks * static.rank_bytes, len(request.buckets)
    seconds = count * (_BUCKET_SECONDS + _BUCKET_SECONDS_PER_LAYER * config.num_layers)
    peak = BASE_BYTES + min(model.workers, count) * (CODEGEN_BYTES + CODEGEN_BYTES_PER_LAYER * config.num_layers)
    what = f"{count} graph{'s' if count > 1 else ''} for the host's simulator"
    graphs = [{**asdict(graph), "nbytes": graph.nbytes} for graph in static.graphs]
    return TargetPlan(
        files=tuple(_files(static)),
        weights=weights,
        stages=(PlannedStage("codegen", what, seconds, peak), packing_stage(model, weights)),
        run_bytes=RUN_BYTES + weights,
        answers=not request.is_embedding,
        kv_cache=0 if request.is_embedding else model.cache_bytes(request.kv_dtype, 1),
        dies=tuple((graph.bucket.name, graph.nbytes) for graph in static.graphs),
        tables=tuple(_tables(static)),
        facts={"static": asdict(static) | {"graphs": graphs}},
    )


def _files(static: StaticPlan) -> Iterator[PlannedFile]:
    """The three files of every bucket and rank; a shared parameter file is counted once."""
    for graph in static.graphs:
        nodes = sum(graph.operators.values())
        for rank in range(static.ranks):
            folder = f"{graph.bucket.name}_rank{rank}"
            shared = graph.shares != graph.bucket
            holds = f"the file of {graph.shares.name}_rank{rank}" if shared else "weights and RoPE tables"
            yield PlannedFile(f"{folder}/{PARAMS}", 0 if shared else static.rank_bytes_of(graph), holds)
            yield PlannedFile(f"{folder}/{GRAPH}", nodes * _JSON_BYTES_PER_NODE, f"{nodes} operators")
        code = _SIMULATOR_BYTES + 900 * nodes
        yield PlannedFile(f"{graph.bucket.name}_rank*/{LIBRARY}", code, "simulator code, one file for all ranks")


def _tables(static: StaticPlan) -> Iterator[Table]:
    """What one rank's die holds while each graph runs, and the operators of each graph."""
    who = "one rank, one die" if static.ranks == 1 else f"each of {static.ranks} ranks, one die each"
    yield Table(
        f"{who} ({static.count} {'graph' if static.count == 1 else 'graphs'} in all)",
        ("graph", "parameters", "KV cache", "activations", "together"),
        tuple(
            (graph.bucket.name, *map(size, (graph.parameters, graph.cache, graph.activations, graph.nbytes)))
            for graph in static.graphs
        ),
    )
    names = dict.fromkeys(name for graph in static.graphs for name in graph.operators)
    yield Table(
        "operators of a rank's graphs",
        ("operator", *(graph.bucket.name for graph in static.graphs)),
        tuple((name, *(str(graph.operators.get(name, 0)) for graph in static.graphs)) for name in names),
    )


def static_plan(config: ModelConfig, request: VaccRequest) -> StaticPlan:
    """The plan of one model.

    Args:
        config: the whole model.
        request: buckets, tp and how weights and caches are stored.

    Raises:
        InputError: E1331, heads that can't be divided among the ranks.
    """
    vocab_rows = -(-config.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    shards = ShardPlan.of(config, request.tp, vocab_rows)
    layer = layer_of(config)
    shapes = dict(_local_shapes(config, request, shards))
    quantized = layer.linears if request.quantize is not None else ()
    stored = sum(_stored_bytes(shape, part_of(layer, name) in quantized) for name, shape in shapes.items())
    heads, kv_heads, width = shards.local("head"), shards.local("kv_head"), config.head_dim
    if request.kv_dtype == "int8":
        # a scale and a zero point per KV head and channel, of keys and of values
        stored += config.num_layers * 4 * kv_heads * width * 4
    longest = max(bucket.length for bucket in request.buckets)
    # with dynamic NTK scaling the base beyond the trained length is that of one length, and so are the tables
    own_tables = config.rope.kind == "dynamic" and longest > config.max_position_embeddings
    graphs = []
    for bucket in request.buckets:
        tokens = bucket.length if bucket.kind == "prefill" else 1
        slots = bucket.length if bucket.kind == "prefill" else 2 * bucket.length - 1
        element = 1 if request.kv_dtype == "int8" else _HALF
        cache = 0 if request.is_embedding else 2 * config.num_layers * kv_heads * slots * width * element
        inner = max(shards.local("intermediate") * 2, config.hidden_size)
        scores = heads * tokens * bucket.length
        every = bucket.kind == "prefill" and "insert_slice" in request.disable
        # a rank's own part, and all ranks' together
        logits = 0 if request.is_embedding else (tokens if every else 1) * (shards.local("vocab") + vocab_rows)
        activations = (3 * tokens * (config.hidden_size + inner) + 3 * scores + logits) * _HALF
        rows = longest if request.merge_params and not own_tables else bucket.length
        tables = 2 * rows * width * _HALF
        counts = operator_counts(config, request, bucket)
        shares = _sharing(request, bucket, own_tables)
        graphs.append(PlannedGraph(bucket, stored + tables, cache, activations, counts, shares))
    return StaticPlan(request.tp, tuple(graphs), shapes)


def _sharing(request: VaccRequest, bucket: Bucket, own_tables: bool) -> Bucket:
    """The first bucket with the same parameters as `bucket`, whose file it reads when files are merged."""
    if not request.merge_params:
        return bucket
    return next(b for b in request.buckets if not own_tables or b.length == bucket.length)


def _local_shapes(
    config: ModelConfig, request: VaccRequest, shards: ShardPlan
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Parameter name -> shape on one rank."""

    def local(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        return name, local_shape(shape, role_of(name, shape, layer_of(config), shards).axes, shards)

    head = (shards.vocab_rows, config.hidden_size)
    for name, shape in parameter_shapes(config).items():
        if name == HEAD_WEIGHT:
            if not request.is_embedding:
                yield local(name, head)
        elif name == EMBEDDING_WEIGHT and config.tie_word_embeddings and not request.is_embedding:
            # one padded tensor, from which the head's rows are taken apart only when ranks share them out
            yield name, head
            if request.tp > 1:
                yield local(HEAD_WEIGHT, head)
        else:
            yield local(name, shape)


def _stored_bytes(shape: tuple[int, ...], quantized: bool) -> int:
    """A float16 tensor; a quantized matrix has a byte per element and a float16 scale per row."""
    count = math.prod(shape)
    return count + shape[0] * _HALF if quantized and len(shape) == 2 else count * _HALF
