"""The search for tiles on this machine: compiles candidates side by side, times them alone, keeps what it finds.

For every problem of the model (`problems`), round one tries single changes of the default; round two measures the most
promising ones again, and all their changes together. Compiling takes every CPU; while anything is timed, nothing of
ours runs besides. A result is kept in the stage cache under the problem, the CPU and the sources, so that the next
model with that layer finds it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from xamc.compiler.artifact.records import to_json
from xamc.compiler.artifact.staging import temporary_folder
from xamc.compiler.cache import StageCache, StageKey, stage_key
from xamc.compiler.child import Limits, run_child
from xamc.compiler.errors import UnsupportedError
from xamc.compiler.program import Program
from xamc.runtime.threads import default_threads
from xamc.targets.cpu.tune.candidates import first_round
from xamc.targets.cpu.tune.inputs import timed_problem
from xamc.targets.cpu.tune.search import FINAL_PAIRS, FIRST_PAIRS, Ratios, Winner, choose, finalists
from xamc.targets.kernels.isa import Isa, cpu_model
from xamc.targets.kernels.tiles import (
    AttentionTiles,
    KernelTiles,
    LinearProblem,
    LinearTiles,
    Problem,
    TileChoice,
    changes,
    problem_from_json,
    tiles_from_json,
)
from xamc.targets.request import TargetRequest

LIMITS = Limits(seconds=3600, memory_bytes=6 * 2**30)
Progress = Callable[[float, float, str], None]

_PROBLEM_MODULES = ("xamc.compiler.lowering", "xamc.passes.relax", "xamc.targets.cpu")
_SEARCH_MODULES = ("xamc.targets.kernels", "xamc.targets.cpu.tune", "xamc.targets.cpu.tir_pipeline")
_TOOLS = ("apache-tvm", "apache-tvm-ffi")
_PROBLEMS, _RESULT = "problems.json", "tiles.json"
# what a problem has in the second round, for the estimate of how far the search is
_EXPECTED_FINALISTS = 2


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
    return stage_key("tune", _SEARCH_MODULES, _TOOLS, inputs)


def read_result(folder: Path, problem: Problem, timed: Problem, cached: bool) -> TunedKernel:
    """What a search kept, for a problem that it was made for."""
    result = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
    tiles = tiles_from_json(to_json(timed), result["tiles"])
    return TunedKernel(problem, timed, tiles, result["speedup"], cached)


def tune(program: Program, request: TargetRequest, cache: StageCache, progress: Progress) -> Tuned:
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
            workshop = Workshop(isa, request.activations, folder, cache.folder / "reproducers", progress)
            for timed, winner in search(missing, isa, request.activations, workshop).items():
                folders[timed] = cache.publish(keys[timed], _writer(timed, winner))
    kernels = [read_result(folders[timed], problem, timed, timed not in missing) for problem, timed in found.items()]
    return Tuned(cpu_model(), default_threads(), tuple(kernels))


def search(problems: Sequence[Problem], isa: Isa, activations: str, workshop: Workshop) -> dict[Problem, Winner | None]:
    """The two rounds, for all problems together: everything is compiled before anything is timed.

    Args:
        problems: distinct ones, as they are timed.
        isa: the level of this machine.
        activations: what integer weights are multiplied with.
        workshop: compiles and times.
    """
    candidates = {problem: first_round(problem, isa, activations) for problem in problems}
    tried = sum(len(tiles) for tiles in candidates.values())
    workshop.expect(2 * tried + len(problems) * (1 + 2 * _EXPECTED_FINALISTS))
    workshop.compile([(p, tiles) for p in problems for tiles in (default_of(p), *candidates[p])])
    final = {
        problem: finalists(candidates[problem], workshop.time(problem, candidates[problem], FIRST_PAIRS))
        for problem in problems
    }
    workshop.compile([(problem, tiles) for problem in problems for tiles in final[problem]])
    return {
        problem: choose(final[problem], workshop.time(problem, final[problem], FINAL_PAIRS)) for problem in problems
    }


def default_of(problem: Problem) -> KernelTiles:
    """The tiles that a kernel has untuned."""
    return LinearTiles() if isinstance(problem, LinearProblem) else AttentionTiles()


@dataclass
class Workshop:
    """Compiles candidates in as many processes as there are CPUs, and times them in one.

    Attributes:
        isa: the level of this machine.
        activations: what integer weights are multiplied with.
        folder: for libraries.
        reproducers: see `run_child`.
        progress: told about every step.
    """

    isa: Isa
    activations: str
    folder: Path
    reproducers: Path
    progress: Progress
    _paths: dict[tuple[Problem, KernelTiles], Path] = field(default_factory=dict)
    _done: int = 0
    _total: int = 0

    def expect(self, steps: int) -> None:
        """How many candidates will be compiled and timed, about."""
        self._total = steps

    def compile(self, wanted: Sequence[tuple[Problem, KernelTiles]]) -> None:
        """Makes the libraries that are not there yet."""
        jobs = []
        for problem, tiles in dict.fromkeys(wanted):
            if (problem, tiles) not in self._paths:
                path = self.folder / f"candidate-{len(self._paths)}.so"
                self._paths[problem, tiles] = path
                jobs.append({"problem": to_json(problem), "tiles": to_json(tiles), "path": str(path)})
        workers = min(len(os.sched_getaffinity(0)), len(jobs))
        if not workers:
            return
        before = self._done
        with ThreadPoolExecutor(workers) as pool:
            # neighbours take about as long as each other, so that every worker gets its part of all kinds
            running = {pool.submit(self._build, jobs[worker::workers], worker) for worker in range(workers)}
            while running:
                ended, running = wait(running, timeout=0.2)
                self._say(before + sum(Path(job["path"]).exists() for job in jobs))
                for future in ended:
                    future.result()

    def time(self, problem: Problem, candidates: Sequence[KernelTiles], pairs: int) -> list[Ratios]:
        """For each candidate the ratios of the default's time to its own."""
        if not candidates:
            return []
        request = {
            "problem": to_json(problem),
            "threads": default_threads(),
            "default": str(self._paths[problem, default_of(problem)]),
            "candidates": [str(self._paths[problem, tiles]) for tiles in candidates],
            "names": [str({name: new for name, (_, new) in changes(tiles).items()}) for tiles in candidates],
            "pairs": pairs,
        }
        ratios: list[Ratios] = self._child("xamc.targets.cpu.tune.measure:measure", request, "time")
        self._say(self._done + len(candidates))
        return ratios

    def _build(self, jobs: list[dict[str, Any]], worker: int) -> None:
        request = {"isa": self.isa.name, "activations": self.activations, "jobs": jobs}
        self._child("xamc.targets.cpu.child:build_candidates", request, f"compile-{worker}")

    def _child(self, function: str, request: Any, name: str) -> Any:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return run_child(function, request, folder=folder, limits=LIMITS, reproducers=self.reproducers)

    def _say(self, done: int) -> None:
        self._done, self._total = done, max(done, self._total)
        self.progress(self._done, self._total, "steps")


def _problems(program: Program, request: TargetRequest, cache: StageCache) -> list[Problem]:
    """The distinct problems of the model, from the cache or from a child process."""
    graph = ir.to_proto(program.model).SerializeToString(deterministic=True)
    wishes = {"kv_dtype": request.kv_dtype, "disable": sorted(request.disable)}
    inputs = {"graph": hashlib.sha256(graph).hexdigest(), "config": to_json(program.config), **wishes}
    key = stage_key("problems", _PROBLEM_MODULES, _TOOLS, inputs)

    def build(out: Path) -> None:
        with temporary_folder("problems") as folder:
            (folder / "graph.onnx").write_bytes(graph)
            call = {
                "graph": str(folder / "graph.onnx"),
                "config": to_json(program.config),
                "weights": {n: [list(t.shape), t.dtype] for n, t in program.weights.items()},
                **wishes,
            }
            reproducers = cache.folder / "reproducers"
            function = "xamc.targets.cpu.child:problems"
            found = run_child(function, call, folder=folder, limits=LIMITS, reproducers=reproducers)
        (out / _PROBLEMS).write_text(json.dumps(found), encoding="utf-8")

    folder = cache.get(key) or cache.publish(key, build)
    return [problem_from_json(value) for value in json.loads((folder / _PROBLEMS).read_text(encoding="utf-8"))]


def _writer(timed: Problem, winner: Winner | None) -> Callable[[Path], None]:
    tiles = winner.tiles if winner is not None else default_of(timed)
    result = {"tiles": to_json(tiles), "speedup": winner.speedup if winner is not None else 1.0}
    return lambda out: _write(out / _RESULT, result)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _word(value: int | None) -> str:
    return "full" if value is None else str(value)
