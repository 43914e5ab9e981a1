"""Export: the patched transformers model to ONNX, and its twin, in a child process that has torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xamc.artifact.records import to_json
from xamc.compiler.export.job import ExportJob, read_exported
from xamc.compiler.frontends import Checkpoint
from xamc.compiler.stages.job import Job
from xamc.errors import InputError
from xamc.ir.onnx_graph import dims
from xamc.ir.program import Program
from xamc.ir.text import program_text
from xamc.ir.weights.transforms import Cast
from xamc.jobs.cache import StageKey, stage_key
from xamc.jobs.child import Limits, run_child
from xamc.model.config import ModelConfig
from xamc.targets.request import Request
from xamc.verify.scenario import Case

LIMITS = Limits(seconds=1800, memory_bytes=6 * 2**30)
_CHILD = "xamc.compiler.export.worker:run_file"
_TOOLS = ("onnxscript", "onnx")  # torch's exporter builds the graph with them


@dataclass
class ExportedModel:
    """The program as exported, and its twin with transformers' answers, made in `twin_seconds` (no twin: None, 0)."""

    program: Program
    twin: tuple[Program, list[Case]] | None
    twin_seconds: float


def export_key(config: ModelConfig, with_twin: bool, group: int, tp: int = 1) -> StageKey:
    """The stage cache's key of a model's export."""
    request = _request(config, with_twin, group, tp)
    inputs = {"config": to_json(config), "twin": with_twin, "group": request.group, "tp": request.tp}
    return stage_key("export", __name__, (_CHILD,), inputs, _TOOLS)


def twin_group(request: Request) -> int:
    """The quantization group whose divisibility the twin keeps; any without quantization."""
    return (request.quantize.group_size or 32) if request.quantize else 32


def _request(config: ModelConfig, with_twin: bool, group: int, tp: int) -> ExportJob:
    # only a twin's sizes follow the quantization and the ranks; the model's graph is the same for all
    return ExportJob(config, True, group, tp) if with_twin else ExportJob(config, False)


def export(job: Job, checkpoint: Checkpoint, with_twin: bool, group: int, tp: int = 1) -> ExportedModel:
    """Exports `checkpoint`'s model, or takes it from the cache, and binds its weights.

    Raises:
        InputError: E1203 the checkpoint lacks a parameter of the graph or has it in another shape.
        ToolchainError: E152x the exporting child failed.
    """
    request = _request(checkpoint.config, with_twin, group, tp)
    key = export_key(checkpoint.config, with_twin, group, tp)

    def build(folder: Path) -> None:
        path = request.write(folder)
        run_child(
            _CHILD,
            str(path),
            folder=folder,
            limits=LIMITS,
            reproducers=job.cache.folder / "reproducers",
        )

    folder = job.cache.get(key) or job.cache.publish(key, build)
    exported = read_exported(folder)
    program = Program(exported.model, {}, checkpoint.config)
    for value in program.weight_inputs():
        assert value.name is not None
        tensor = checkpoint.tensors.get(value.name)
        if tensor is None or tensor.shape != dims(value):
            found = "is missing" if tensor is None else f"has shape {list(tensor.shape)}"
            raise InputError(
                "E1203",
                f"{checkpoint.path}: {value.name} {found}, the config implies {list(dims(value) or ())}",
                fix="the weights do not belong to this config.json; use the checkpoint's own",
            )
        # the exported graph reads float32; a pass that stores 16 bits takes a 16-bit source as it is
        program.weights[value.name] = tensor if tensor.dtype == "float32" else Cast(tensor, "float32", value.name)
    job.dump("10-export.txt", program_text(program))
    twin = (exported.twin, exported.cases) if exported.twin is not None else None
    return ExportedModel(program, twin, exported.twin_seconds)
