"""What `backend.compile.tune` would do: how many kernels it would search for, and what is known of them already."""

from __future__ import annotations

from collections.abc import Iterator

from xamc.artifact.staging import temporary_folder
from xamc.jobs.cache import StageCache
from xamc.model.config import ModelConfig
from xamc.model.layer import HEAD_WEIGHT
from xamc.model.parameters import merged_linears
from xamc.targets.cpu.request import CpuRequest
from xamc.targets.cpu.tune.candidates import first_round
from xamc.targets.cpu.tune.inputs import timed_problem
from xamc.targets.cpu.tune.tune import TunedKernel, read_result, require_host, result_key
from xamc.targets.kernels.tiles import AttentionProblem, LinearProblem, Problem, Rows
from xamc.targets.stored_bytes import stored_format

# on two idle cores: compiling, and seven pairs of runs
_SECONDS_PER_CANDIDATE = 1.2
_BOTH: tuple[Rows, ...] = ("one", "any")


def planned_problems(config: ModelConfig, request: CpuRequest) -> Iterator[Problem]:
    """The distinct problems of a model whose projections are merged as the CPU's passes do it."""
    shapes = [("", *shape) for shape in merged_linears(config)]
    shapes.append((HEAD_WEIGHT, config.vocab_size, config.hidden_size))
    linear = {LinearProblem.of(n, k, stored_format(name, request), m): None for name, n, k in shapes for m in _BOTH}
    yield from linear
    for window in dict.fromkeys(config.sliding_windows):
        heads, kv_heads, width = config.num_heads, config.num_kv_heads, config.head_dim
        yield AttentionProblem(heads, kv_heads, width, request.kv_dtype, window)  # type: ignore[arg-type]


def planned_tuning(config: ModelConfig, request: CpuRequest) -> tuple[tuple[TunedKernel, ...], str, float]:
    """What earlier searches found, what is left to do in words, and the seconds that takes, about.

    Raises:
        UnsupportedError: E1418, the code is for another machine.
    """
    isa = require_host(request.cpu_levels)
    found = {problem: timed_problem(problem) for problem in planned_problems(config, request)}
    known: list[TunedKernel] = []
    missing: dict[Problem, int] = {}
    with temporary_folder("plan") as scratch, StageCache(scratch) as cache:
        for problem, timed in found.items():
            folder = cache.get(result_key(timed, isa, request.activations))
            if folder is not None:
                known.append(read_result(folder, problem, timed, True))
            else:
                missing[timed] = len(first_round(timed, isa, request.activations))
    candidates = sum(missing.values())
    what = f"{len(found)} kernels, {len(known)} of them tuned before; {candidates} candidates to compile and time"
    return tuple(known), what, candidates * _SECONDS_PER_CANDIDATE
