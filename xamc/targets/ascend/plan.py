"""The Ascend target's plan: graphs, gears, inputs and bytes, from the config and the request alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from xamc.artifact.gears import GEARS
from xamc.ir.onnx_weights import ALIGNMENT, WEIGHTS
from xamc.jobs.progress import size
from xamc.model.config import ModelConfig
from xamc.model.parameters import parameter_shapes
from xamc.targets.ascend.gears import GearGraph, graphs_of
from xamc.targets.ascend.request import AscendRequest
from xamc.targets.ascend.scripts import NEVER_RUN, SCRIPT
from xamc.targets.planned import (
    BASE_BYTES,
    MIB,
    PACKER_BYTES,
    RUN_BYTES,
    PlannedFile,
    PlannedModel,
    PlannedStage,
    Table,
    TargetPlan,
)
from xamc.verify.twin import twin_config

#: a gear that would take more memory than this on the twin is not run while compiling
MOST_GEAR_BYTES = 3 * 2**30

_HALF, _INT64 = 2, 8
# what a node, or the constants it needs, takes in an ONNX file
_ONNX_BYTES_PER_LAYER = 16_000
_GEAR_BYTES = 300 * MIB  # ONNX Runtime on the twin, besides the scores of long prefills
_SCORE_BYTES_PER_SECOND = 100e6
_STREAMED_BYTES_PER_SECOND = 40e6  # one process that reads, converts and writes


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


def plan(model: PlannedModel, request: AscendRequest) -> TargetPlan:
    """Files, stages, and what the NPU must hold."""
    gears = gear_plan(model.config, request)
    return TargetPlan(
        files=tuple(_files(gears)),
        weights=gears.weights,
        stages=tuple(_stages(model, gears.weights)),
        # ONNX Runtime widens every float16 weight to float32, beside the file
        run_bytes=RUN_BYTES + 4 * gears.weights,
        run_seconds=30.0,
        kv_cache=model.cache_bytes(request.kv_dtype, 1),
        tables=(_table(gears),),
        facts={"gears": asdict(gears)},
    )


def _files(plan: GearPlan) -> Iterator[PlannedFile]:
    """ONNX files, the weights they share, and the text files."""
    for graph in plan.graphs:
        listed = ", ".join(f"{batch}x{length}" for batch, length in graph.gears)
        yield PlannedFile(f"{graph.name}.onnx", graph.onnx, f"gears {listed}" if len(graph.gears) > 1 else listed)
    yield PlannedFile(WEIGHTS, plan.weights, "float16 weights and RoPE tables of all graphs")
    texts = f"{SCRIPT}, *.ini, {GEARS}"
    yield PlannedFile(texts, 8_000 * len(plan.graphs), "for CANN, and how to drive the graphs")


def _stages(model: PlannedModel, weights: int) -> Iterator[PlannedStage]:
    if model.proofs:
        # four copies of the scores of the longest prefill, in float32; see `gear_proof`
        scores = 4 * 4 * twin_config(model.config).num_heads * model.prefill_chunk**2
        peak = BASE_BYTES + _GEAR_BYTES + min(scores, MOST_GEAR_BYTES)
        yield PlannedStage("gears", "run every gear on the twin", 6.0 + scores / _SCORE_BYTES_PER_SECOND, peak)
    what = f"read {size(model.input_bytes)}, write {size(weights)}"
    seconds = (model.input_bytes + weights) / _STREAMED_BYTES_PER_SECOND
    yield PlannedStage("onnx", what, seconds, BASE_BYTES + PACKER_BYTES)


def _table(plan: GearPlan) -> Table:
    """What each graph takes, the gears it has, and what an NPU holds."""
    rows = []
    for graph in plan.graphs:
        inputs = "; ".join(f"{name} [{', '.join(map(str, shape))}]" for name, shape in graph.inputs.items())
        gears = ", ".join(f"{batch} x {length}" for batch, length in graph.gears)
        rows.append((graph.name, gears, inputs, size(graph.activations)))
    return Table(
        f"graphs for {plan.soc_version}, {NEVER_RUN}",
        ("graph", "gears", "inputs (of caches one)", "activations"),
        tuple(rows),
        f"weights {size(plan.weights)}, KV caches {size(plan.cache)} in {plan.caches} tensors, two sets of them; "
        f"at most {size(plan.device)} on the device",
    )


def gear_plan(config: ModelConfig, request: AscendRequest) -> GearPlan:
    """The plan of one model."""
    graphs = graphs_of(request)
    capacity, rows = graphs[0].capacity, graphs[0].rows
    sizes = [math.prod(shape) * _HALF for shape in parameter_shapes(config).values()]
    sizes += [capacity * config.head_dim * _HALF] * 2
    # every tensor begins at a page, and nothing follows the last one
    weights = sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes[:-1]) + sizes[-1]
    cache = 2 * config.num_layers * rows * capacity * config.num_kv_heads * config.head_dim * _HALF
    planned = tuple(_planned(graph, config) for graph in graphs)
    return GearPlan(planned, weights, cache, 2 * config.num_layers, request.soc_version)


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
