"""Arguments for timing a kernel, and the part of a problem that is timed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from xamc.artifact.packing import packed_layout
from xamc.artifact.panels import PANEL
from xamc.model.kv_cache import KV_BLOCK
from xamc.runtime.memory import aligned_zeros
from xamc.targets.kernels.tiles import AttentionProblem, LinearProblem, Problem

Array = NDArray[np.generic]

PREFILL_ROWS = 512
"""Rows of X, or queries, of kernels for any number of them: a full prefill call."""
_CONTEXT = 2048
_STREAM_BYTES = 128 * 2**20
"""What one run of a memory-bound kernel reads: more than caches keep, as a model's weights are read in turn."""
_MOST_OUTPUTS = 1024
"""Output features that a GEMM is timed with: its panels are independent, more of them only take longer."""


@dataclass(frozen=True)
class Arguments:
    """What a run passes: for each call of it the arguments before the result, their dtypes, the result's shape."""

    calls: list[list[Array]]
    dtypes: tuple[str, ...]
    result: tuple[int, ...]


def timed_problem(problem: Problem) -> Problem:
    """The problem that is compiled and timed for `problem`: of a large layer as many outputs as tell."""
    if not isinstance(problem, LinearProblem):
        return problem
    most = _MOST_OUTPUTS
    if problem.m == "one":
        per_panel = packed_layout(PANEL, problem.k, problem.format).nbytes
        most = max(PANEL, _STREAM_BYTES // per_panel * PANEL)
    return replace(problem, n=min(problem.n, most))


def arguments(problem: Problem) -> Arguments:
    """Random arguments, the same in every process."""
    generator = np.random.default_rng(0)
    if isinstance(problem, LinearProblem):
        return _linear(problem, generator)
    return _attention(problem, generator)


def _linear(problem: LinearProblem, generator: np.random.Generator) -> Arguments:
    layout = packed_layout(problem.n, problem.k, problem.format)
    rows = 1 if problem.m == "one" else PREFILL_ROWS
    weight = []
    for buffer in layout.buffers:
        if buffer.name == "weight" and problem.format.quantized:
            weight.append(_aligned(generator.integers(0, 256, buffer.shape, np.uint8)))
        elif buffer.name == "weight":
            values = generator.standard_normal(buffer.shape, np.float32)
            weight.append(_aligned(values.astype(ml_dtypes.bfloat16 if problem.kind == "bfloat16" else buffer.dtype)))
        else:
            low, high = (0.005, 0.015) if buffer.name == "scale" else (7.0, 8.0)
            weight.append(_aligned(generator.uniform(low, high, buffer.shape).astype(buffer.dtype)))
    x = _aligned(generator.standard_normal((rows, problem.k), np.float32))
    copies = -(-_STREAM_BYTES // layout.nbytes) if problem.m == "one" else 1
    calls = [[x, *(weight if copy == 0 else map(_aligned, weight))] for copy in range(copies)]
    return Arguments(calls, ("float32", *(buffer.dtype for buffer in layout.buffers)), (rows, problem.n))


def _attention(problem: AttentionProblem, generator: np.random.Generator) -> Arguments:
    queries, past = PREFILL_ROWS, _CONTEXT - PREFILL_ROWS
    blocks = _CONTEXT // KV_BLOCK
    q = _aligned(generator.standard_normal((1, queries, problem.heads * problem.d), np.float32))
    table = _aligned(generator.permutation(blocks).astype(np.int32)[None])
    keys = (blocks, problem.kv_heads, problem.d, KV_BLOCK)
    values = (blocks, problem.kv_heads, KV_BLOCK, problem.d)
    dtypes = ["float32", "int32", "int64", problem.kv_dtype, problem.kv_dtype]
    if problem.kv_dtype == "int8":
        pools = [_aligned(generator.integers(-127, 128, shape, np.int8)) for shape in (keys, values)]
        pools += [_aligned(np.full((blocks, problem.kv_heads, KV_BLOCK), 0.01, np.float32)) for _ in range(2)]
        dtypes += ["float32", "float32"]
    else:
        dtype = np.dtype(ml_dtypes.bfloat16) if problem.kv_dtype == "bfloat16" else np.dtype(problem.kv_dtype)
        pools = [_aligned(generator.standard_normal(shape, np.float32).astype(dtype)) for shape in (keys, values)]
    calls = [[q, table, _aligned(np.array([past], np.int64)), *pools]]
    return Arguments(calls, tuple(dtypes), (1, queries, problem.heads * problem.d))


def _aligned(values: Array) -> Array:
    """A copy that begins at a cache line; bfloat16, which NumPy can't hand over, as its bits."""
    bits = values.view(np.uint16) if values.dtype == ml_dtypes.bfloat16 else values
    result: Array = aligned_zeros(bits.shape, bits.dtype)
    result[...] = bits
    return result
