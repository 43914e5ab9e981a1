"""The CPU target's plan: packed weights exactly as they are written, code and times as they were measured."""

from __future__ import annotations

from typing import Any

from xamc.targets.cpu.arithmetic import level_arithmetic
from xamc.targets.cpu.request import CpuRequest
from xamc.targets.cpu.running_memory import cached_tokens, running_memory
from xamc.targets.kernels.isa import Isa
from xamc.targets.planned import (
    BASE_BYTES,
    CODEGEN_BYTES,
    CODEGEN_BYTES_PER_LAYER,
    RUN_BYTES,
    PlannedFile,
    PlannedModel,
    PlannedStage,
    TargetPlan,
    packing_stage,
)
from xamc.targets.stored_bytes import WEIGHTS_FILE, weights_bytes

_CODEGEN_SECONDS, _CODEGEN_SECONDS_PER_LAYER = 8.0, 0.3


def plan(model: PlannedModel, request: CpuRequest) -> TargetPlan:
    """Files, stages and memory.

    Raises:
        UnsupportedError: E1418, tiles are wanted for another machine.
    """
    config, layers = model.config, model.config.num_layers
    weights = weights_bytes(model.shapes, request, packed=True)
    code = (900_000 + 12_000 * layers) * len(request.cpu_levels)
    running = running_memory(config, weights, model.context_limit, model.prefill_chunk, request.kv_dtype)
    stages = [
        PlannedStage(
            "codegen",
            "lower, rewrite, generate kernels",
            _CODEGEN_SECONDS + _CODEGEN_SECONDS_PER_LAYER * layers,
            BASE_BYTES + CODEGEN_BYTES + CODEGEN_BYTES_PER_LAYER * layers,
        ),
        packing_stage(model, weights),
    ]
    arithmetic = {isa.name: level_arithmetic(isa, request) for isa in Isa.rising(request.cpu_levels)}
    facts: dict[str, Any] = {"arithmetic": arithmetic, "tuned": ()}
    if request.tune and model.in_full:
        from xamc.targets.cpu.tune.plan import planned_tuning  # it knows the kernels, and with them NumPy

        kernels, what, seconds = planned_tuning(config, request)
        stages.insert(0, PlannedStage("tune", what, seconds, BASE_BYTES + model.workers * CODEGEN_BYTES))
        facts["tuned"] = tuple(map(str, kernels))
    tokens = cached_tokens(config, model.context_limit, model.prefill_chunk)
    return TargetPlan(
        files=(
            PlannedFile(WEIGHTS_FILE, weights, model.holds),
            PlannedFile("code", code, "kernels and host program"),
        ),
        weights=weights,
        code=code,
        stages=tuple(stages),
        run_bytes=RUN_BYTES + weights,
        kv_cache=model.cache_bytes(request.kv_dtype, model.max_batch, tokens),
        running=running,
        lines=(
            *(f"multiply {level}: {words}" for level, words in arithmetic.items()),
            *(f"tuned    {kernel}" for kernel in facts["tuned"]),
        ),
        facts=facts,
    )
