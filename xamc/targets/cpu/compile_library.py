"""Code generation for the real model, in a child process; the proof on its twin runs beside it, see `prove`.

`build` never sees a weight of the real model, only names, shapes and dtypes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from xamc.artifact.records import from_json
from xamc.artifact.step_program import STEP_FILE, dumps_step
from xamc.ir.program import Program
from xamc.ir.relax_program import RelaxProgram
from xamc.jobs.clock import Clock
from xamc.model.config import ModelConfig
from xamc.passes.lowering.lower import lower
from xamc.passes.protocol import PassReport
from xamc.targets.cpu.codegen import build_library
from xamc.targets.cpu.names import LIBRARY, RESULT
from xamc.targets.cpu.pipeline import relax_passes
from xamc.targets.cpu.select_kernels import select_kernels
from xamc.targets.cpu.stored import StoredTensor, recipe
from xamc.targets.cpu.weight_plan import WeightPlan, plan_weights
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.tiles import TileChoice


def build(request: Mapping[str, Any]) -> None:
    """Lowers, rewrites and compiles the real model.

    Args:
        request: ``graph`` (ONNX file in the in-place cache form), ``config`` (ModelConfig as JSON), ``weights``
            (name -> [shape, dtype]), ``isa``, ``kv_dtype`` (float32, float16, bfloat16), ``activations`` (float32,
            int8), ``tiles`` (`TileChoice` as JSON), ``disable`` (pass names), ``dump`` (folder or None), ``out`` (an
            existing folder for the library and result.json: ``passes`` with counts and reasons, ``kernels``,
            ``weights``, the packing recipe, and ``seconds`` by step).
    """
    out, isa = Path(request["out"]), Isa.by_name(request["isa"])
    dump = Path(request["dump"]) if request.get("dump") else None
    clock = Clock()
    stored = {name: StoredTensor(name, tuple(shape), dtype) for name, (shape, dtype) in request["weights"].items()}
    config = from_json(ModelConfig, request["config"])
    program = lower(Program(ir.load(request["graph"]), dict(stored), config))
    _dump(dump, "20-lowered", program)
    clock.lap("lower")
    reports = []
    for number, relax_pass in enumerate(relax_passes(request["kv_dtype"]), start=21):
        if relax_pass.name not in request["disable"]:
            reports.append(_entry(relax_pass.name, relax_pass.run(program)))
            _dump(dump, f"{number}-{relax_pass.name}", program)
    clock.lap("relax passes")
    plan = plan_weights(program)
    tiles = TileChoice.from_json(request["tiles"])
    selected = select_kernels(program, plan, isa, request["kv_dtype"], request["activations"], tiles=tiles)
    module = selected.module
    if dump is not None:
        (dump / "30-kernels.relax.py").write_text(module.script())
    if selected.step is not None:
        (out / STEP_FILE).write_text(dumps_step(selected.step))
    clock.lap("select kernels")
    build_library(module, isa, out / LIBRARY)
    clock.lap("codegen")
    result = {
        "passes": reports,
        "kernels": sorted(v.name_hint for v, f in module.functions.items() if type(f).__name__ == "PrimFunc"),
        "decode": selected.reason or "one program",
        "weights": _recipes(plan, program),
        "seconds": clock.laps,
    }
    (out / RESULT).write_text(json.dumps(result, indent=1, sort_keys=True))


def _entry(name: str, report: PassReport) -> dict[str, Any]:
    skipped = [{"place": s.place, "reason": s.reason} for s in report.skipped]
    return {"name": name, "matched": report.matched, "skipped": skipped}


def _dump(folder: Path | None, name: str, program: RelaxProgram) -> None:
    if folder is not None:
        (folder / f"{name}.relax.py").write_text(program.module.script())


def _recipes(plan: WeightPlan, program: RelaxProgram) -> list[dict[str, Any]]:
    """For each planned weight: the stored tensors it is made of, its format, and its buffers."""
    return [
        {
            "sources": [recipe(program.weights[name]) for name in weight.sources],
            "kind": None if weight.layout is None else weight.layout.format.kind,
            "group_size": None if weight.layout is None else weight.layout.format.group_size,
            "buffers": [[b.name, b.dtype, list(b.shape)] for b in weight.buffers],
        }
        for weight in plan.weights
    ]
