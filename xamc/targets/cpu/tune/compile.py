"""What the tuning's child processes do with TVM: compile candidates, as code generation compiles its kernels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tvm

from xamc.targets.cpu import tir_pipeline
from xamc.targets.cpu.tune.measure import KERNEL
from xamc.targets.kernels.attention import attention
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.linear import linear
from xamc.targets.kernels.tiles import (
    AttentionTiles,
    KernelTiles,
    LinearProblem,
    LinearTiles,
    Problem,
    problem_from_json,
    tiles_from_json,
)


def build(request: Mapping[str, Any]) -> None:
    """Compiles candidates, each to a library with the function `KERNEL`.

    Args:
        request: ``isa``, ``activations``, and ``jobs``: ``problem`` and ``tiles`` as JSON, and the library's ``path``.
    """
    isa = Isa.by_name(request["isa"])
    for job in request["jobs"]:
        problem = problem_from_json(job["problem"])
        path = Path(job["path"])
        partial = path.with_name(f"part-{path.name}")
        compile_kernel(problem, tiles_from_json(job["problem"], job["tiles"]), isa, request["activations"], partial)
        partial.rename(path)


def compile_kernel(problem: Problem, tiles: KernelTiles, isa: Isa, activations: Any, path: Path) -> None:
    """Writes the library of one kernel, as code generation compiles it."""
    if isinstance(problem, LinearProblem):
        assert isinstance(tiles, LinearTiles)
        fmt = problem.format
        kernel = linear(problem.n, problem.k, fmt, isa, m=problem.m, activations=activations, tiles=tiles)
    else:
        assert isinstance(tiles, AttentionTiles)
        sizes = problem.heads, problem.kv_heads, problem.d
        kernel = attention(
            *sizes, problem.kv_dtype, isa, scale=problem.d**-0.5, m="any", window=problem.window, tiles=tiles
        )
    target = tvm.target.Target(isa.target())
    module = tvm.IRModule({KERNEL: kernel.with_attr("global_symbol", KERNEL)})
    tvm.compile(module, target=target, tir_pipeline=tir_pipeline.NAME).export_library(str(path))
