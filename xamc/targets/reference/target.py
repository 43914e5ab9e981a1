"""The reference target: the exported graph with its weights as they are stored, under ONNX Runtime."""

from __future__ import annotations

from xamc.artifact.manifest import Cpu
from xamc.passes.graph.byte_codes import ByteCodes
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.pipeline import Pipeline
from xamc.targets.onnx_target import OnnxCode, OnnxTarget
from xamc.targets.planned import (
    BASE_BYTES,
    RUN_BYTES,
    PlannedFile,
    PlannedModel,
    PlannedStage,
    TargetPlan,
    packing_stage,
)
from xamc.targets.reference.build import build
from xamc.targets.reference.caps import CAPS
from xamc.targets.request import Request
from xamc.targets.storage_passes import storage_passes
from xamc.targets.stored_bytes import WEIGHTS_FILE, weights_bytes
from xamc.targets.target import Target

_BYTES_PER_LAYER = 12_500  # of the graph


def passes(request: Request) -> Pipeline:
    """The export as it is, tidied, with weights as they are stored."""
    return Pipeline([Cleanup(), *storage_passes(request), ByteCodes()])


def plan(model: PlannedModel, request: Request) -> TargetPlan:
    """The graph, and its weights in rows."""
    weights = weights_bytes(model.shapes, request, packed=False)
    code = _BYTES_PER_LAYER * model.config.num_layers
    return TargetPlan(
        files=(PlannedFile(WEIGHTS_FILE, weights, model.holds), PlannedFile("code", code, "graph")),
        weights=weights,
        code=code,
        stages=(PlannedStage("codegen", "write the graph", 1.0, BASE_BYTES), packing_stage(model, weights)),
        run_bytes=RUN_BYTES + weights,
        kv_cache=model.cache_bytes(request.kv_dtype, model.max_batch),
    )


ONNX = OnnxTarget(
    "code/model.onnx",
    "code/graph.json",
    "weights.params",
    lambda graph, data, options, cache, dump: OnnxCode(graph, Cpu("any", ())),
)

TARGET = Target(CAPS, Request.of, passes, plan, build, ONNX)
