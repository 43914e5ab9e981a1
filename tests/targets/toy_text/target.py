"""The text target: what it reads of a spec, its passes, its plan, and its artifact."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from google.protobuf import text_format

from tests.targets.toy_text.caps import CAPS
from xamc.artifact.manifest import Cpu, KvCache, Phase, plan_layout
from xamc.errors import UnsupportedError
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.pipeline import Pipeline
from xamc.targets.pack_weights import PackedWeight
from xamc.targets.planned import BASE_BYTES, RUN_BYTES, PlannedFile, PlannedModel, PlannedStage, TargetPlan
from xamc.targets.request import Request, TargetOptions
from xamc.targets.storage_passes import storage_passes
from xamc.targets.stored_bytes import WEIGHTS_FILE, weights_bytes
from xamc.targets.target import Built, Target, Work
from xamc.targets.weights_file import write_weights

GRAPH = "code/graph.txt"


@dataclass(frozen=True)
class TextRequest(Request):
    """What the text target is asked for: a line above the graph, beside what every target is."""

    comment: str = ""


def read_request(options: TargetOptions) -> TextRequest:
    """What the target reads of a spec; refuses here what it could not build."""
    if options.max_batch > 8:
        raise UnsupportedError(
            "E1410",
            f"the text target takes 8 sequences at once, not {options.max_batch}",
            fix="set runtime.max_batch: 8",
            keys=("runtime.max_batch",),
        )
    return TextRequest.of(options, comment=options.compile.get("comment", ""))


def passes(request: TextRequest) -> Pipeline:
    """The export as it is, tidied."""
    return Pipeline([Cleanup(), *storage_passes(request)], required=("cleanup",))


def plan(model: PlannedModel, request: TextRequest) -> TargetPlan:
    """What `build` would write."""
    weights = weights_bytes(model.shapes, request, packed=False)
    text = 40_000 * model.config.num_layers
    return TargetPlan(
        files=(PlannedFile(GRAPH, text, "the graph"), PlannedFile(WEIGHTS_FILE, weights, model.holds)),
        weights=weights,
        stages=(PlannedStage("codegen", "write the graph", 1.0, BASE_BYTES),),
        run_bytes=RUN_BYTES + weights,
        kv_cache=model.cache_bytes(request.kv_dtype, model.max_batch),
    )


def build(work: Work[TextRequest]) -> Built:
    """The graph as text, and the weights in one file."""
    program = work.rewritten.program
    with work.progress.stage("codegen") as stage:
        text = f"# {work.request.comment}\n{text_format.MessageToString(ir.to_proto(program.model))}"
        stage.result(f"{len(text.splitlines())} lines")
    tensors = {str(value.name): program.weights[str(value.name)] for value in program.weight_inputs()}
    entries, _ = plan_layout((name, tensor.dtype, tensor.shape) for name, tensor in tensors.items())
    weights = [PackedWeight(((e.name, tensors[e.name]),), None, (e.offset,), e.dtype) for e in entries]
    path, table = write_weights(work, tuple((e.name, e.dtype, e.shape) for e in entries), weights)
    return Built(
        files={GRAPH: text.encode(), table.file: path},
        fields={
            "context_limit": work.context_limit,
            "prefill_chunk": work.prefill_chunk,
            "max_batch": work.max_batch,
            "kv": KvCache(work.request.kv_dtype),
            "functions": ("main",),
            "phases": (Phase("prefill", ("main",)), Phase("decode", ("main",))),
            "code_file": GRAPH,
            "weights": table,
            "cpu": Cpu("any", ()),
            "executes_on": CAPS.executes_on,
        },
        weights=table.nbytes,
        report={"lines": text.count("\n")},
    )


TARGET = Target(CAPS, read_request, passes, plan, build)
