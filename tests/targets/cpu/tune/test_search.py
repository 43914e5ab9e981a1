"""Which tiles win, over measurements made up here; and how pairs of runs are timed."""

import itertools
import random
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest

from xamc.targets.cpu.tune.candidates import combined, first_round
from xamc.targets.cpu.tune.measure import ratios
from xamc.targets.cpu.tune.rounds import CandidateRunner, search
from xamc.targets.cpu.tune.search import FINAL_PAIRS, FIRST_PAIRS, MARGIN, Ratios, choose, finalists, gain
from xamc.targets.kernels.isa import LEVELS, Isa
from xamc.targets.kernels.tiles import AttentionProblem, KernelTiles, LinearProblem, LinearTiles, Problem, changes

GEMM = LinearProblem(256, 512, "uint4", 32, "any")
GEMV = LinearProblem(256, 512, "uint4", 32, "one")
ATTENTION = AttentionProblem(4, 2, 16, "float16", None)
V3 = Isa.by_name("x86-64-v3")


def noisy(speedup: float, pairs: int, noise: float, seed: int) -> list[float]:
    generator = random.Random(seed)
    return [speedup * (1 + generator.gauss(0, noise)) for _ in range(pairs)]


class MadeUp(CandidateRunner):
    """Candidates that are as fast as a table says; remembers what it timed, and refuses what isn't compiled."""

    def __init__(self, speed: dict[tuple[Problem, str], float], noise: float = 0.01) -> None:
        super().__init__(V3, "int8", Path(), Path(), lambda done, total, unit: None)
        self.speed, self.noise, self.made = speed, noise, set[tuple[Problem, KernelTiles]]()
        self.timed: list[tuple[Problem, int, int]] = []

    def compile(self, wanted: Sequence[tuple[Problem, KernelTiles]]) -> None:
        self.made |= set(wanted)

    def time(self, problem: Problem, candidates: Sequence[KernelTiles], pairs: int) -> list[Ratios]:
        assert {(problem, tiles) for tiles in candidates} <= self.made
        self.timed.append((problem, len(candidates), pairs))
        results: list[Ratios] = []
        for number, tiles in enumerate(candidates):
            speedup = 1.0
            for name in changes(tiles):
                speedup *= self.speed.get((problem, f"{name}={getattr(tiles, name)}"), 1.0)
            results.append(noisy(speedup, pairs, self.noise, 100 * pairs + number))
        return results


def test_noise_alone_never_wins() -> None:
    """Forty searches of seven candidates that are no faster, on a machine that is off by 5 % from run to run."""
    for seed in range(40):
        candidates = first_round(GEMM, V3, "int8")
        measured = [noisy(1.0, FINAL_PAIRS, 0.05, 1000 * seed + index) for index in range(len(candidates))]
        assert choose(candidates, measured) is None


def test_a_gain_below_the_margin_keeps_the_default() -> None:
    assert choose([LinearTiles(block_k=128)], [noisy(1 + MARGIN / 2, FINAL_PAIRS, 0.0001, 0)]) is None


def test_a_few_interrupted_runs_do_not_hide_a_gain() -> None:
    measured = [1.1] * 15 + [0.3, 4.0, 0.2, 1.09, 1.11, 1.12]
    winner = choose([LinearTiles(block_k=128)], [measured])
    assert winner is not None and winner.speedup == statistics.median(measured)


def test_more_runs_vouch_for_more() -> None:
    assert gain(noisy(1.1, 200, 0.05, 1)) > gain(noisy(1.1, 8, 0.05, 1))


def test_the_best_changes_are_tried_together_and_win() -> None:
    made_up = MadeUp({(GEMM, "block_rows=144"): 1.10, (GEMM, "block_k=128"): 1.08, (GEMM, "block_k=512"): 0.8})
    winner = search([GEMM], V3, "int8", made_up)[GEMM]
    assert winner is not None
    assert winner.tiles == LinearTiles(block_rows=144, block_k=128)
    assert winner.speedup == pytest.approx(1.10 * 1.08, rel=0.02)


def test_every_problem_gets_its_own_winner_or_none() -> None:
    made_up = MadeUp({(GEMV, "ahead=4096"): 1.2})
    winners = search([GEMM, GEMV, ATTENTION], V3, "int8", made_up)
    assert winners[GEMM] is None and winners[ATTENTION] is None
    best = winners[GEMV]
    assert best is not None and best.tiles == LinearTiles(ahead=4096)
    rounds = [pairs for problem, count, pairs in made_up.timed if problem == GEMV]
    assert rounds == [FIRST_PAIRS, FINAL_PAIRS]


def test_a_fluke_of_the_first_round_does_not_win() -> None:
    class Fluke(MadeUp):
        def time(self, problem: Problem, candidates: Sequence[KernelTiles], pairs: int) -> list[Ratios]:
            measured = super().time(problem, candidates, pairs)
            return [[1.3] * pairs, *measured[1:]] if pairs == FIRST_PAIRS else measured

    made_up = Fluke({})
    assert search([GEMM], V3, "int8", made_up)[GEMM] is None
    assert made_up.timed[-1][1:] == (1, FINAL_PAIRS)


def test_finalists_are_the_best_two_and_all_together() -> None:
    candidates = [
        LinearTiles(block_rows=96),
        LinearTiles(block_rows=144),
        LinearTiles(block_k=128),
        LinearTiles(ahead=1),
    ]
    measured = [[1.04], [1.06], [1.05], [0.9]]
    assert finalists(candidates, measured) == [
        LinearTiles(block_rows=144),
        LinearTiles(block_k=128),
        LinearTiles(block_rows=144, block_k=128),
    ]


def test_nothing_promising_is_nothing_to_combine() -> None:
    assert finalists([LinearTiles(ahead=1)], [[0.9]]) == []
    assert combined([LinearTiles(ahead=1)]) is None
    assert choose([], []) is None


@pytest.mark.parametrize("isa", LEVELS.values(), ids=str)
@pytest.mark.parametrize("problem", [GEMM, GEMV, ATTENTION, AttentionProblem(4, 2, 16, "int8", 8)], ids=str)
@pytest.mark.parametrize("activations", ["float32", "int8"])
def test_every_candidate_changes_something_that_the_kernel_has(problem: Problem, isa: Isa, activations: str) -> None:
    candidates = first_round(problem, isa, activations)
    assert len(set(candidates)) == len(candidates) >= 2
    gemv = {"ahead", "words"} | ({"unroll"} if activations == "float32" and GEMV.group_size is None else set())
    allowed = {
        str(GEMM): {"block_rows", "block_k", "tile_rows", "tile_vectors"},
        str(GEMV): gemv,
    }.get(str(problem), {"rows"})
    assert set().union(*(changes(tiles) for tiles in candidates)) == allowed
    for tiles in candidates:
        if isinstance(tiles, LinearTiles) and tiles.tile_rows and tiles.tile_vectors:
            assert tiles.tile_rows * tiles.tile_vectors + tiles.tile_vectors + 1 <= isa.registers


def test_runs_alternate_and_the_ratio_is_default_over_candidate() -> None:
    order: list[str] = []
    now = itertools.count()
    times = {"default": 3, "candidate": 2}

    def run(name: str) -> None:
        order.append(name)
        for _ in range(times[name] - 1):
            next(now)

    found = ratios(lambda: run("default"), lambda: run("candidate"), 3, clock=lambda: float(next(now)))
    assert found == [1.5] * 3
    assert order == ["default", "candidate", "candidate", "default", "default", "candidate"]
