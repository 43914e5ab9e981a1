"""The route of an ONNX model on one screen: a file becomes an artifact, proven on the smallest and largest inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import safetensors.numpy

import xamc
from xamc.artifact.manifest import HOST_SIMULATOR, MANIFEST
from xamc.artifact.manifest_file import dumps
from xamc.artifact.onnx_manifest import OnnxManifest
from xamc.artifact.publish import ArtifactWriter, check_replaceable, portable_spec
from xamc.artifact.staging import require_writable, temporary_folder
from xamc.compiler.frontends.checkpoint import resolve_checkpoint
from xamc.compiler.spec import key_uses
from xamc.compiler.spec.model import LoadedSpec
from xamc.compiler.stages import summary
from xamc.compiler.stages.job import CompileOptions, Job, packing_workers
from xamc.compiler.stages.onnx_import import CASE, LEAST_CASE, VARIED_CASE, ImportedGraph, import_graph
from xamc.compiler.stages.onnx_request import OnnxRequest, onnx_request
from xamc.jobs.cache import StageCache, tool_version
from xamc.jobs.child import Limits, run_child
from xamc.jobs.progress import Progress, size
from xamc.runtime.cpu_features import missing_features
from xamc.targets.onnx.mod_json import graph_json
from xamc.targets.onnx_target import OnnxCode
from xamc.targets.registry import CAPS

if TYPE_CHECKING:
    from xamc.runtime.executors.graph import GraphModel

GOLDEN = "golden"
_GOLDEN_FILES = {
    CASE: "golden.safetensors",
    LEAST_CASE: "golden_least.safetensors",
    VARIED_CASE: "golden_varied.safetensors",
}
LIMITS = Limits(seconds=3600, memory_bytes=16 * 2**30)
_TOOLS = ("apache-tvm", "apache-tvm-ffi", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")


def compile_onnx_model(
    loaded: LoadedSpec, options: CompileOptions, progress: Progress
) -> tuple[Path, OnnxManifest, dict[str, Any]]:
    """Compiles a build file with ``frontend.type: onnx``.

    Returns:
        The artifact's folder, its manifest, and the report.

    Raises:
        XamcError: its class says whose fault it is; nothing is left half-published.
    """
    spec = loaded.spec
    with progress.stage("spec") as stage:
        summary.spec_warnings(progress, loaded)
        request = onnx_request(loaded, options.allow_rtn)
        destination = options.output or spec.workspace.path / spec.name
        check_replaceable(destination)
        simulated = ", simulated on this host" if CAPS[spec.backend.type].executes_on == HOST_SIMULATOR else ""
        progress.header(spec.name, f"{spec.backend.type}{simulated}, ONNX graph")
        summary.quantization_warning(progress, request.quantization)
        for warning in request.warnings:
            progress.warn(warning)
        stage.result(summary.spec(key_uses(loaded, spec.backend.type)))

    require_writable(destination.parent)
    with StageCache(destination.parent, enabled=options.use_cache, warn=progress.warn) as cache:
        job = Job(options, cache, progress, packing_workers(spec.workspace.workers))
        if options.dump_ir is not None:
            require_writable(options.dump_ir)

        with progress.stage("frontend") as stage:
            path = resolve_checkpoint(spec.frontend.checkpoint)
            imported = import_graph(job, path, spec.frontend.shape, request.storage)
            stage.result(_frontend(imported), cache.state("import"))

        with progress.stage("codegen") as stage:
            count = len(imported.facts.inputs)
            code = request.target.code(imported.graph, count, spec.backend.compile, cache, options.dump_ir)
            stage.result(code.cpu.mcpu if code.cpu.features else "ONNX", cache.state("codegen"))

        with progress.stage("publish") as stage, ArtifactWriter(destination) as writer:
            manifest = _fill(job, loaded, request, imported, code, writer)
            compared = None
            if missing := missing_features(code.cpu):
                progress.warn(
                    f"this CPU lacks {', '.join(missing)}: the compiled graph was not run, so nothing is proven"
                )
            else:
                compared = _prove(job, imported, writer)
                manifest = replace(manifest, golden=GOLDEN)
            report = _report(progress, imported, compared) | {"made": cache.made}
            manifest = writer.publish(manifest, report)
            nbytes = sum(file.nbytes for file in manifest.files)
            proof = "not run" if compared is None else f"{compared['compiled']:.1e} from ONNX Runtime, same weights"
            stage.result(f"{size(nbytes)}, {proof}")
    return destination, manifest, report


def _frontend(imported: ImportedGraph) -> str:
    facts = imported.facts
    nodes = sum(facts.operators.values())
    parts = [f"{nodes} nodes of {len(facts.operators)} kinds", f"{facts.count / 1e6:.1f} M parameters"]
    if facts.half_dtype:
        parts.append(f"{facts.half_dtype} computed in float32")
    if facts.quantized:
        parts.append(f"{facts.quantized} weights int8")
    return ", ".join(parts)


def _fill(
    job: Job,
    loaded: LoadedSpec,
    request: OnnxRequest,
    imported: ImportedGraph,
    code: OnnxCode,
    writer: ArtifactWriter,
) -> OnnxManifest:
    """Adds code, graph and parameters, with a manifest beside them, so that the folder can be run."""
    spec, files, facts = loaded.spec, request.target, imported.facts
    digests = job.cache.digests(imported.folder)
    writer.add_file(files.params_file, imported.params, digests.get(imported.params.name))
    writer.add_file(files.code_file, code.file)
    manifest = OnnxManifest(
        name=spec.name,
        target=spec.backend.type,
        xamc_version=xamc.__version__,
        spec=portable_spec(spec.to_dict() | {"source": None}),
        graph_inputs=facts.inputs,
        graph_outputs=facts.outputs,
        parameters=facts.parameters,
        code_file=files.code_file,
        graph_file=files.graph_file,
        params_file=files.params_file,
        weight_dtype=request.storage,
        cpu=code.cpu,
        quantization=request.quantization,
        executes_on=CAPS[spec.backend.type].executes_on,
        inputs=tuple(sorted(imported.inputs, key=lambda digest: digest.name)),
        tools={tool: tool_version(tool) for tool in _TOOLS},
    )
    text = graph_json(ir.load(imported.graph), manifest)
    job.dump("10-graph.json", text)
    writer.add_bytes(files.graph_file, text.encode())
    (writer.folder / MANIFEST).write_text(dumps(manifest), encoding="utf-8")
    return manifest


def _prove(job: Job, imported: ImportedGraph, writer: ArtifactWriter) -> dict[str, Any]:
    """Runs the unpublished artifact on the cases, in a child, and keeps what it answers as golden outputs.

    Returns:
        The first case's deviations; `compiled` is the worst of all.

    Raises:
        InternalError: E1474 the compiled graph is off from ONNX Runtime on the same stored weights.
    """
    with temporary_folder("golden") as folder:
        files = {str(case): _GOLDEN_FILES[case.name] for case in imported.cases}
        call = {"artifact": str(writer.folder), "cases": files, "out": str(folder)}
        compared: dict[str, Any] = run_child(
            "xamc.compiler.stages.onnx_route:run_cases",
            call,
            folder=folder,
            limits=LIMITS,
            reproducers=job.cache.folder / "reproducers",
        )
        for file in files.values():
            writer.add_bytes(f"{GOLDEN}/{file}", (folder / file).read_bytes())
    return compared


def run_cases(request: Mapping[str, Any]) -> dict[str, Any]:
    """The child's side: outputs of ``artifact`` for ``cases`` (file → golden file), written to ``out``."""
    from xamc.runtime import load_graph

    model = load_graph(request["artifact"])
    found = [_run_case(model, case, Path(request["out"]) / name) for case, name in request["cases"].items()]
    return found[0] | {"compiled": max(case["compiled"] for case in found)}


def _run_case(model: GraphModel, path: str, golden_file: Path) -> dict[str, Any]:
    from xamc.verify.onnx_model_oracle import deviations, require_close, require_same_nan

    case = safetensors.numpy.load_file(path)
    kinds: dict[str, dict[str, Any]] = {"input": {}, "original": {}, "stored": {}}
    for key, array in case.items():
        kind, _, name = key.partition(".")
        kinds[kind][name] = array
    outputs = model.run(kinds["input"])
    found = deviations(outputs, kinds["stored"])
    what = "the compiled graph and ONNX Runtime with the same weights"
    worst = require_close(what, found, kinds["stored"])
    require_same_nan(what, outputs, kinds["stored"])
    golden = {f"input.{name}": array for name, array in kinds["input"].items()}
    golden |= {f"output.{name}": array for name, array in outputs.items()}
    safetensors.numpy.save_file(golden, golden_file)
    return {"compiled": worst, "outputs": found, "original": deviations(outputs, kinds["original"])}


def _report(progress: Progress, imported: ImportedGraph, compared: Mapping[str, Any] | None) -> dict[str, Any]:
    """report.json; deviations are relative to an output's largest value, of integers the share that differs."""
    facts = imported.facts
    return {
        "stages": progress.summary(),
        "peak_bytes": progress.sampler.peak if progress.sampler else None,
        "warnings": list(progress.warnings),
        "operators": dict(facts.operators),
        "parameters": facts.count,
        "kept_in_float32": dict(facts.kept),
        "deviation": {
            "simplified_from_original": facts.simplified,
            "float32_from_file": dict(facts.widened),
            "stored_weights_from_original": dict(facts.stored),
            "compiled_from_onnxruntime_same_weights": compared["outputs"] if compared else None,
            "compiled_from_original": compared["original"] if compared else None,
        },
    }
