"""The search for tiles on this machine: compiles candidates side by side, times them alone, keeps what it finds.

For every problem of the model (`problems`), round one tries single changes of the default; round two measures the most
promising ones again, and all their changes together. Compiling takes every CPU; while anything is timed, nothing of
ours runs besides. A result is kept in the stage cache under the problem, the CPU and the sources, so that the next
model with that layer finds it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from xamc.artifact.records import to_json
from xamc.artifact.staging import temporary_folder
from xamc.errors import UnsupportedError
from xamc.ir.program import Program
from xamc.jobs.cache import StageCache, StageKey, stage_key
from xamc.jobs.child import Limits
from xamc.jobs.processor import cpu_model
from xamc.runtime.threads import default_threads
from xamc.targets.child_stage import child_stage
from xamc.targets.cpu.names import PROBLEMS
from xamc.targets.cpu.request import CpuRequest
from xamc.targets.cpu.tune.inputs import timed_problem
from xamc.targets.cpu.tune.rounds import CandidateRunner, Progress, default_of, search
from xamc.targets.cpu.tune.search import Winner
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.tiles import (
    KernelTiles,
    Problem,
    TileChoice,
    changes,
    problem_from_json,
    tiles_from_json,
)

LIMITS = Limits(seconds=3600, memory_bytes=6 * 2**30)

_SEARCH = "xamc.targets.cpu.tune.rounds:search"
_PROBLEMS_CHILD = "xamc.targets.cpu.tune.problems:write_problems"
_RESULT = "tiles.json"


@dataclass(frozen=True)
class TunedKernel:
    """What the search found for a problem.

    Attributes:
        problem: the kernel's.
        timed: the problem that was timed for it, see `timed_problem`.
        tiles: the best ones; the default where nothing beat it.
        speedup: times as fast as the default; 1 where that stays.
        cached: whether that was known.
    """

    problem: Problem
    timed: Problem
    tiles: KernelTiles
    speedup: float
    cached: bool

    def __str__(self) -> str:
        """For example ``linear_any_3072x576_uint4_g32: block_rows 240 -> 144, 1.07x``."""
        changed = ", ".join(f"{name} {_word(old)} -> {new}" for name, (old, new) in changes(self.tiles).items())
        return f"{self.problem}: {changed}, {self.speedup:.2f}x" if changed else f"{self.problem}: default"


@dataclass(frozen=True)
class Tuned:
    """The result of a search over a model.

    Attributes:
        cpu: the processor it was made on.
        threads: that kernels were timed with.
        kernels: one per problem of the model.
    """

    cpu: str
    threads: int
    kernels: tuple[TunedKernel, ...]

    @property
    def faster(self) -> tuple[TunedKernel, ...]:
        """The kernels that are not the default's."""
        return tuple(kernel for kernel in self.kernels if changes(kernel.tiles))

    @property
    def choice(self) -> TileChoice:
        """What the code generator takes."""
        return TileChoice.of({kernel.problem: kernel.tiles for kernel in self.faster})

    def report(self) -> dict[str, Any]:
        """The entry of the build report."""
        kernels = [
            {
                "kernel": str(kernel.problem),
                "timed": str(kernel.timed),
                "tiles": {name: list(pair) for name, pair in changes(kernel.tiles).items()},
                "speedup": round(kernel.speedup, 4),
                "cached": kernel.cached,
            }
            for kernel in self.kernels
        ]
        return {"cpu": self.cpu, "threads": self.threads, "kernels": kernels}


def require_host(levels: Sequence[str]) -> Isa:
    """The level of this machine, which is all that can be timed here.

    Raises:
        UnsupportedError: E1418, `levels` means another level, or several.
    """
    host, wanted = Isa.host(), Isa.rising(levels)
    if wanted != [host]:
        names = ", ".join(level.name for level in wanted)
        raise UnsupportedError(
            "E1418",
            f"backend.compile.tune times kernels on this machine, which is {host.name}; the code is to be for {names}",
            fix="set backend.compile.mcpu: native, or backend.compile.tune: off, or compile on the machine that is "
            "compiled for",
            keys=("backend.compile.tune", "backend.compile.mcpu", "backend.compile.cpu"),
        )
    return host


def result_key(timed: Problem, isa: Isa, activations: str) -> StageKey:
    """The stage cache's key of what a search found."""
    inputs = {
        "problem": to_json(timed),
        "isa": isa.name,
        "cpu": cpu_model(),
        "activations": activations,
        "threads": default_threads(),
    }
    return stage_key("tune", __name__, (_SEARCH,), inputs)


def read_result(folder: Path, problem: Problem, timed: Problem, cached: bool) -> TunedKernel:
    """What a search kept, for a problem that it was made for."""
    result = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
    tiles = tiles_from_json(to_json(timed), result["tiles"])
    return TunedKernel(problem, timed, tiles, result["speedup"], cached)


def tune(program: Program, request: CpuRequest, cache: StageCache, progress: Progress) -> Tuned:
    """The best tiles for the kernels of `program` on this machine.

    Args:
        program: the real model in the in-place cache form; no weight of it is read.
        request: what the spec asks of this target.
        cache: where problems and results are kept.
        progress: told how far the search is: steps done, steps in all, their name.

    Raises:
        UnsupportedError: E1418, the code is for another machine.
        InternalError: E1419, a candidate computes something else than the default.
    """
    isa = require_host(request.cpu_levels)
    found = {problem: timed_problem(problem) for problem in _problems(program, request, cache)}
    keys = {timed: result_key(timed, isa, request.activations) for timed in found.values()}
    known = {timed: cache.get(key) for timed, key in keys.items()}
    missing = [timed for timed, folder in known.items() if folder is None]
    folders = {timed: folder for timed, folder in known.items() if folder is not None}
    if missing:
        with temporary_folder("tune") as folder:
            runner = CandidateRunner(isa, request.activations, folder, cache.folder / "reproducers", progress)
            for timed, winner in search(missing, isa, request.activations, runner).items():
                folders[timed] = cache.publish(keys[timed], _writer(timed, winner))
    kernels = [read_result(folders[timed], problem, timed, timed not in missing) for problem, timed in found.items()]
    return Tuned(cpu_model(), default_threads(), tuple(kernels))


def _problems(program: Program, request: CpuRequest, cache: StageCache) -> list[Problem]:
    """The distinct problems of the model, from the cache or from a child process."""
    graph = ir.to_proto(program.model).SerializeToString(deterministic=True)
    options = {"kv_dtype": request.kv_dtype, "disable": sorted(request.disable)}
    weights = {name: [list(tensor.shape), tensor.dtype] for name, tensor in program.weights.items()}
    given = {"config": to_json(program.config), "weights": weights, **options}
    key = stage_key("problems", __name__, (_PROBLEMS_CHILD,), {"graph": hashlib.sha256(graph).hexdigest(), **given})
    folder = child_stage(cache, key, _PROBLEMS_CHILD, given, LIMITS, graph)
    return [problem_from_json(value) for value in json.loads((folder / PROBLEMS).read_text(encoding="utf-8"))]


def _writer(timed: Problem, winner: Winner | None) -> Callable[[Path], None]:
    tiles = winner.tiles if winner is not None else default_of(timed)
    result = {"tiles": to_json(tiles), "speedup": winner.speedup if winner is not None else 1.0}
    return lambda out: _write(out / _RESULT, result)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _word(value: int | None) -> str:
    return "full" if value is None else str(value)
