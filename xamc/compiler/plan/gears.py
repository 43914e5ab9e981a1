"""The plan of Ascend's ATC route: graphs, gears, inputs and bytes, from the config and the request alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from xamc.ir.onnx_weights import ALIGNMENT
from xamc.model.config import ModelConfig
from xamc.model.parameters import parameter_shapes
from xamc.targets.ascend.gears import GearGraph, graphs_of
from xamc.targets.request import TargetRequest

#: a gear that would take more memory than this on the twin is not run while compiling
MOST_GEAR_BYTES = 3 * 2**30

_HALF, _INT64 = 2, 8
# what a node, or the constants it needs, takes in an ONNX file
_ONNX_BYTES_PER_LAYER = 16_000


@dataclass(frozen=True)
class PlannedGears:
    """One graph; sizes in bytes.

    Attributes:
        name: of its file, without .onnx.
        kind: the phase.
        gears: (batch, tokens of a prefill or slots of a decode).
        inputs: input name -> shape, -1 where gears decide; one cache stands for all.
        onnx: the file without weights.
        activations: from above, in the largest gear: hidden states, scores, logits.
    """

    name: str
    kind: str
    gears: tuple[tuple[int, int], ...]
    inputs: Mapping[str, tuple[int, ...]]
    onnx: int
    activations: int


@dataclass(frozen=True)
class GearPlan:
    """All graphs of a request.

    Attributes:
        graphs: in order.
        weights: bytes of the file they share, RoPE tables included.
        cache: bytes of one set of KV caches; the host keeps two.
        caches: tensors of such a set.
        soc_version: what ATC compiles for.
    """

    graphs: tuple[PlannedGears, ...]
    weights: int
    cache: int
    caches: int
    soc_version: str

    @property
    def device(self) -> int:
        """Bytes of the NPU's memory, from above: weights once, two sets of caches, the largest activations."""
        return self.weights + 2 * self.cache + max(graph.activations for graph in self.graphs)


def gear_plan(config: ModelConfig, request: TargetRequest) -> GearPlan:
    """The plan of one model."""
    assert request.atc is not None
    graphs = graphs_of(request)
    capacity, rows = graphs[0].capacity, graphs[0].rows
    sizes = [math.prod(shape) * _HALF for shape in parameter_shapes(config).values()]
    sizes += [capacity * config.head_dim * _HALF] * 2
    # every tensor begins at a page, and nothing follows the last one
    weights = sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes[:-1]) + sizes[-1]
    cache = 2 * config.num_layers * rows * capacity * config.num_kv_heads * config.head_dim * _HALF
    planned = tuple(_planned(graph, config) for graph in graphs)
    return GearPlan(planned, weights, cache, 2 * config.num_layers, request.atc.soc_version)


def _planned(graph: GearGraph, config: ModelConfig) -> PlannedGears:
    inputs = {name: shape for name, shape in graph.inputs(config).items() if not name.startswith("cache_")}
    inputs["cache_key.0"] = graph.inputs(config)["cache_key.0"]
    gears = tuple((gear.batch, gear.length) for gear in graph.gears)
    # constants of a row number, a slot or a length
    constants = 3 * (graph.capacity + graph.rows) * _INT64
    if graph.is_static and graph.kind == "prefill":
        constants += 2 * gears[0][1] * _INT64
    onnx = config.num_layers * _ONNX_BYTES_PER_LAYER + constants
    return PlannedGears(
        graph.name, graph.kind, gears, inputs, onnx, max(_activations(graph.kind, config, *gear) for gear in gears)
    )


def _activations(kind: str, config: ModelConfig, batch: int, length: int) -> int:
    tokens = batch * (length if kind == "prefill" else 1)
    scores = tokens * config.num_heads * length * 3 * 4
    repeated = 0
    if config.num_heads != config.num_kv_heads:
        repeated = 2 * batch * config.num_heads * length * config.head_dim * _HALF
    inner = max(2 * config.intermediate_size, config.hidden_size)
    return scores + repeated + (3 * tokens * (config.hidden_size + inner) + batch * config.vocab_size) * _HALF
