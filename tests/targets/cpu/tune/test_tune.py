"""A search for real on one small layer, what the cache keeps of it, and what is refused."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.checkpoints import write_tiny
from tests.passes.relax import cases
from xamc.artifact.records import to_json
from xamc.compiler.frontends import open_checkpoint
from xamc.compiler.plan.plan import make_plan
from xamc.compiler.spec import load_spec
from xamc.compiler.stages.target_options import target_options
from xamc.errors import InternalError, UnsupportedError
from xamc.ir.weights.quantize import RoundToNearest
from xamc.jobs.cache import StageCache
from xamc.targets.cpu.request import CpuRequest
from xamc.targets.cpu.select_kernels import select_kernels
from xamc.targets.cpu.tune import measure, rounds, tune
from xamc.targets.cpu.tune.candidates import first_round
from xamc.targets.cpu.tune.compile import compile_kernel
from xamc.targets.cpu.tune.inputs import arguments, timed_problem
from xamc.targets.cpu.tune.plan import planned_problems
from xamc.targets.cpu.tune.problems import distinct_problems
from xamc.targets.cpu.tune.search import Winner
from xamc.targets.cpu.weight_plan import plan_weights
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.tiles import (
    AttentionProblem,
    AttentionTiles,
    KernelTiles,
    LinearProblem,
    LinearTiles,
    Problem,
    TileChoice,
)
from xamc.targets.registry import target

HOST = Isa.host()
SMALL = LinearProblem(64, 64, "uint4", 32, "any")
CACHED_ATTENTION = AttentionProblem(2, 1, 16, "bfloat16", None)


def request(**changes: object) -> CpuRequest:
    return replace(CpuRequest("float16", None, "float16", tune=True), **changes)  # type: ignore[arg-type]


def test_a_real_search_compiles_times_and_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One candidate, in child processes as in a compile; who wins is the machine's affair."""
    tried = LinearTiles(block_k=128)
    monkeypatch.setattr(rounds, "first_round", lambda problem, isa, activations: [tried])
    steps: list[tuple[float, float]] = []
    runner = rounds.CandidateRunner(
        HOST, "int8", tmp_path, tmp_path, lambda done, total, unit: steps.append((done, total))
    )
    winner = rounds.search([SMALL], HOST, "int8", runner)[SMALL]
    assert winner is None or (winner.tiles == tried and winner.speedup > 1)
    assert len(list(tmp_path.glob("candidate-*.so"))) == 2
    assert steps[-1][0] <= steps[-1][1] and steps == sorted(steps)


@pytest.mark.parametrize(
    ("problem", "tiles"),
    [
        (SMALL, LinearTiles(block_rows=96, block_k=128, tile_rows=4)),
        (LinearProblem(40, 320, "float16", None, "any"), LinearTiles(block_k=128, tile_rows=3, tile_vectors=1)),
        (CACHED_ATTENTION, AttentionTiles(rows=24)),
    ],
    ids=str,
)
def test_other_tiles_give_the_same_result(problem: Problem, tiles: KernelTiles, tmp_path: Path) -> None:
    """Through the arguments that kernels are timed with, none of which may hide a difference by being zero."""
    default = type(tiles)()
    for name, variant in (("a", default), ("b", tiles)):
        compile_kernel(problem, variant, HOST, "int8", tmp_path / f"{name}.so")
    calls = {"problem": to_json(problem), "threads": 1, "pairs": 1, "names": ["b"]}
    found = measure.measure({**calls, "default": str(tmp_path / "a.so"), "candidates": [str(tmp_path / "b.so")]})
    assert len(found) == 1 and found[0][0] > 0


def test_a_wrong_candidate_is_refused() -> None:
    right = np.linspace(-1, 1, 32, dtype=np.float32)
    measure.check("kernel", right * np.float32(1 + 1e-6), right)
    for wrong in (right * np.float32(1.001), np.zeros_like(right), np.full_like(right, np.nan)):
        with pytest.raises(InternalError, match="linear_one with block_k 128") as caught:
            measure.check("linear_one with block_k 128", wrong, right)
        assert caught.value.code == "E1419"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> list[Problem]:
    """The problems of a model, without a model."""
    problems: list[Problem] = [
        SMALL,
        LinearProblem(4096, 64, "uint4", 32, "any"),
        LinearProblem(2048, 64, "uint4", 32, "any"),
    ]
    monkeypatch.setattr(tune, "_problems", lambda program, request, cache: problems)
    return problems


def test_results_are_kept_and_found_again(
    tmp_path: Path, program: list[Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[Problem] = []

    def search(problems: Sequence[Problem], *rest: object) -> dict[Problem, Winner | None]:
        searched.extend(problems)
        return {p: Winner(LinearTiles(block_rows=144), 1.07) if p == SMALL else None for p in problems}

    monkeypatch.setattr(tune, "search", search)
    with StageCache(tmp_path, tmp_path / "cache") as cache:
        first = tune.tune(None, request(), cache, lambda *step: None)  # type: ignore[arg-type]
        again = tune.tune(None, request(), cache, lambda *step: None)  # type: ignore[arg-type]
        assert len(searched) == 2, "layers that differ in outputs beyond those timed are timed once"
        assert [kernel.cached for kernel in first.kernels] == [False] * 3
        assert [kernel.cached for kernel in again.kernels] == [True] * 3
        assert [kernel.tiles for kernel in again.kernels] == [kernel.tiles for kernel in first.kernels]
        tune.tune(None, request(activations="int8"), cache, lambda *step: None)  # type: ignore[arg-type]
        assert len(searched) == 4, "other arithmetic, other tiles"
        monkeypatch.setattr(tune, "cpu_model", lambda: "another processor")
        tune.tune(None, request(), cache, lambda *step: None)  # type: ignore[arg-type]
        assert len(searched) == 6, "another machine, other tiles"
    assert str(first.faster[0]) == "linear_any_64x64_uint4_g32: block_rows 240 -> 144, 1.07x"
    assert first.choice.of_linear(64, 64, SMALL.format, "any") == LinearTiles(block_rows=144)
    assert first.choice.of_linear(64, 64, SMALL.format, "one") == LinearTiles()
    report = first.report()["kernels"]
    assert report[0]["tiles"] == {"block_rows": [240, 144]} and report[1]["tiles"] == {}
    assert report[1]["timed"] == "linear_any_1024x64_uint4_g32"


def test_a_choice_survives_json() -> None:
    choice = TileChoice.of({SMALL: LinearTiles(tile_rows=4), CACHED_ATTENTION: AttentionTiles(rows=24)})
    assert TileChoice.from_json(json.loads(json.dumps(choice.to_json()))) == choice
    assert TileChoice.from_json([]) == TileChoice()


def test_arguments_are_aligned_as_kernels_demand() -> None:
    for problem in (SMALL, CACHED_ATTENTION, LinearProblem(32, 64, "bfloat16", None, "any")):
        given = arguments(timed_problem(problem))
        assert all(array.ctypes.data % 64 == 0 for call in given.calls for array in call)
        assert all(len(call) == len(given.dtypes) for call in given.calls)


def spec(tmp_path: Path, **compile_keys: str) -> Path:
    path = tmp_path / "build.yaml"
    checkpoint = write_tiny(tmp_path / "tiny", "qwen2")
    values = {
        "name": "tiny",
        "frontend": {"checkpoint": str(checkpoint), "quantize": {"type": "w8a16_rtn"}},
        "backend": {"type": "tvm_cpu", "dtype": "int8", "compile": compile_keys},
        "workspace": {"path": str(tmp_path / "out")},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def test_only_this_machine_can_be_tuned_for(tmp_path: Path) -> None:
    other = next(name for name in ("x86-64-v2", "x86-64-v3") if name != HOST.name)
    with pytest.raises(UnsupportedError, match=f"{re.escape(HOST.name)}; the code is to be for {other}") as caught:
        make_plan(spec(tmp_path, tune="on", mcpu=other))
    assert caught.value.code == "E1418"
    assert [place.path.name for place in caught.value.locations] == ["build.yaml"]
    assert make_plan(spec(tmp_path, tune="off", mcpu=other)).facts["tuned"] == ()
    assert tune.require_host([HOST.name]) == tune.require_host(["native"]) == HOST


@pytest.mark.parametrize(("written", "wanted"), [("on", True), ("off", False), (True, True), (None, False)])
def test_the_key_is_a_word_in_every_yaml(tmp_path: Path, written: object, wanted: bool) -> None:
    values = yaml.safe_load(spec(tmp_path).read_text())
    values["backend"]["compile"] = {} if written is None else {"tune": written}
    loaded, cpu = load_spec(values), target("tvm_cpu")
    assert cpu.request(target_options(loaded.spec, cpu.caps, False)[0]).tune is wanted


def test_the_plan_says_what_is_left_and_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAMC_CACHE", str(tmp_path / "cache"))
    path = spec(tmp_path, tune="on")
    before = make_plan(path)
    stage = next(stage for stage in before.stages if stage.name == "tune")
    assert before.facts["tuned"] == () and " 0 of them tuned before" in stage.what and stage.seconds > 0
    loaded = load_spec(path)
    config = open_checkpoint(loaded.spec.frontend.checkpoint, "huggingface").config
    cpu = target("tvm_cpu")
    wanted = cpu.request(target_options(loaded.spec, cpu.caps, False)[0])
    first = next(iter(planned_problems(config, wanted)))
    timed = timed_problem(first)
    with StageCache(tmp_path) as cache:
        winner = Winner(LinearTiles(ahead=4096), 1.05)
        cache.publish(tune.result_key(timed, HOST, wanted.activations), tune._writer(timed, winner))
    after = make_plan(path)
    assert after.facts["tuned"] == (f"{first}: ahead 2048 -> 4096, 1.05x",)
    assert f"tuned    {after.facts['tuned'][0]}" in after.totals()


@pytest.mark.parametrize("kind", ["tied", "windowed"])
def test_the_plan_knows_the_problems_of_the_lowered_model(kind: str) -> None:
    wanted = request(quantize=RoundToNearest(4, 32), kv_dtype="float16")
    program = cases.before(kind, "end", "w4")
    found = distinct_problems(program, "float16")
    assert set(found) == set(planned_problems(program.config, wanted))
    assert len(found) == len(set(found)) >= 10
    assert all(first_round(timed_problem(problem), HOST, "int8") for problem in found)


def test_tiles_reach_the_kernels_of_their_problem_alone() -> None:
    program = cases.before("tied", "end", "w4")
    problem = next(p for p in distinct_problems(program, "float16") if isinstance(p, LinearProblem) and p.m == "any")
    choice = TileChoice.of({problem: LinearTiles(block_rows=96, block_k=128)})
    plain, tuned = (
        select_kernels(program, plan_weights(program), HOST, "float16", "float32", tiles=tiles).module
        for tiles in (TileChoice(), choice)
    )
    names = {variable.name_hint for variable in plain.functions}
    changed = [n for n in names if str(plain[n]) != str(tuned[n])]
    assert len(changed) == 1 and changed[0].startswith(f"linear_any_{problem.n}x{problem.k}_")
