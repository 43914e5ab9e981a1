"""The two rounds of a search: candidates are compiled side by side, and timed alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xamc.artifact.records import to_json
from xamc.jobs.child import Limits, run_child
from xamc.runtime.threads import default_threads
from xamc.targets.cpu.tune.candidates import first_round
from xamc.targets.cpu.tune.search import FINAL_PAIRS, FIRST_PAIRS, Ratios, Winner, choose, finalists
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.tiles import AttentionTiles, KernelTiles, LinearProblem, LinearTiles, Problem, changes

LIMITS = Limits(seconds=3600, memory_bytes=6 * 2**30)
Progress = Callable[[float, float, str], None]

# what a problem has in the second round, for the estimate of how far the search is
_EXPECTED_FINALISTS = 2


def search(
    problems: Sequence[Problem], isa: Isa, activations: str, runner: CandidateRunner
) -> dict[Problem, Winner | None]:
    """The two rounds, for all problems together: everything is compiled before anything is timed.

    Args:
        problems: distinct ones, as they are timed.
        isa: the level of this machine.
        activations: what integer weights are multiplied with.
        runner: compiles and times.
    """
    candidates = {problem: first_round(problem, isa, activations) for problem in problems}
    tried = sum(len(tiles) for tiles in candidates.values())
    runner.expect(2 * tried + len(problems) * (1 + 2 * _EXPECTED_FINALISTS))
    runner.compile([(p, tiles) for p in problems for tiles in (default_of(p), *candidates[p])])
    final = {
        problem: finalists(candidates[problem], runner.time(problem, candidates[problem], FIRST_PAIRS))
        for problem in problems
    }
    runner.compile([(problem, tiles) for problem in problems for tiles in final[problem]])
    return {problem: choose(final[problem], runner.time(problem, final[problem], FINAL_PAIRS)) for problem in problems}


def default_of(problem: Problem) -> KernelTiles:
    """The tiles that a kernel has untuned."""
    return LinearTiles() if isinstance(problem, LinearProblem) else AttentionTiles()


@dataclass
class CandidateRunner:
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
        self._child("xamc.targets.cpu.tune.compile:build", request, f"compile-{worker}")

    def _child(self, function: str, request: Any, name: str) -> Any:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return run_child(
            function, request, folder=folder, limits=LIMITS, reproducers=self.reproducers, without=("torch",)
        )

    def _say(self, done: int) -> None:
        self._done, self._total = done, max(done, self._total)
        self.progress(self._done, self._total, "steps")
