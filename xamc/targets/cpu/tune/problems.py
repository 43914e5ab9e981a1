"""A model's problems: the kernels that its linear layers and its attention come down to, each once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from xamc.artifact.records import from_json, to_json
from xamc.ir.dialect import decode
from xamc.ir.program import Program
from xamc.ir.relax_program import RelaxProgram
from xamc.model.config import ModelConfig
from xamc.passes.lowering.body import Body
from xamc.passes.lowering.lower import lower
from xamc.targets.cpu.names import PROBLEMS
from xamc.targets.cpu.pipeline import relax_passes
from xamc.targets.cpu.stored import StoredTensor
from xamc.targets.cpu.weight_plan import weight_format
from xamc.targets.kernels.tiles import AttentionProblem, LinearProblem, Problem, Rows

_BOTH: tuple[Rows, ...] = ("one", "any")


def write_problems(request: Mapping[str, Any]) -> None:
    """The distinct problems of a model, in the order of the program, as `PROBLEMS` in the folder ``out``.

    Args:
        request: as of `compile_library.build`: ``graph``, ``config``, ``weights``, ``kv_dtype``, ``disable``,
            ``out``.
    """
    stored = {name: StoredTensor(name, tuple(shape), dtype) for name, (shape, dtype) in request["weights"].items()}
    program = lower(Program(ir.load(request["graph"]), dict(stored), from_json(ModelConfig, request["config"])))
    for relax_pass in relax_passes(request["kv_dtype"]):
        if relax_pass.name not in request["disable"]:
            relax_pass.run(program)
    found = [to_json(problem) for problem in distinct_problems(program, request["kv_dtype"])]
    (Path(request["out"]) / PROBLEMS).write_text(json.dumps(found), encoding="utf-8")


def distinct_problems(program: RelaxProgram, kv_dtype: Any) -> list[Problem]:
    """What the linear layers and the attention of a program after its Relax passes come down to."""
    found: dict[Problem, None] = {}
    for _, value in Body.of(program.module["main"]).bindings:
        call = decode(value)
        if call is not None and call.name == "linear":
            n, k = (int(dim) for dim in call.tensors[1].ty.shape)
            found |= {LinearProblem.of(n, k, weight_format(call), m): None for m in _BOTH}
        elif call is not None and call.name == "attention_rows":
            heads, window, cache = call.attributes["heads"], call.attributes["window"], call.tensors[1]
            kv_heads, d = int(cache.ty.shape[1]), int(cache.ty.shape[3])
            found[AttentionProblem(heads, kv_heads, d, kv_dtype, window)] = None
    return list(found)
