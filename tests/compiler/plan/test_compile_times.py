"""A plan says what this machine took, or else what is estimated, and what the stage cache will serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import write_tiny
from xamc.compiler.frontends import open_checkpoint
from xamc.compiler.plan import compile_times
from xamc.compiler.plan.compile_times import Recording, recipe
from xamc.compiler.plan.files import plan_for_target
from xamc.compiler.plan.plan import Plan, make_plan
from xamc.compiler.spec import Spec, load_spec
from xamc.compiler.stages.export import export_key, twin_group
from xamc.compiler.stages.target_options import target_options
from xamc.jobs.cache import StageCache, StageKey
from xamc.jobs.progress import StageRecord
from xamc.targets.registry import target
from xamc.targets.request import Request

# seconds of a compile twice as fast as the estimates, in its stages
SPEED = 0.5


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("XAMC_CACHE", str(tmp_path / "cache"))
    write_tiny(tmp_path / "tiny", "llama")
    return {
        "name": "tiny",
        "frontend": {"checkpoint": str(tmp_path / "tiny")},
        "backend": {"type": "tvm_cpu", "dtype": "fp16"},
        "workspace": {"path": str(tmp_path / "out"), "workers": 2},
    }


def _request(spec: Spec) -> Request:
    cpu = target("tvm_cpu")
    request: Request = cpu.request(target_options(spec, cpu.caps, False)[0])
    return request


def _keys(spec: dict[str, Any]) -> list[StageKey]:
    loaded = load_spec(spec).spec
    request = _request(loaded)
    config = open_checkpoint(loaded.frontend.checkpoint, "huggingface").config
    stages = ("codegen", "proof", "kernel_proof", "weights")
    return [export_key(config, True, twin_group(request)), *(StageKey(stage, stage.encode().hex()) for stage in stages)]


def _compile(spec: dict[str, Any], seconds: float | None = None) -> Plan:
    """What a compile leaves, whose stages took half of what was expected, or as long as given; and the plan before."""
    plan = make_plan(spec)
    loaded = load_spec(spec).spec
    request = _request(loaded)
    checkpoint = open_checkpoint(loaded.frontend.checkpoint, "huggingface")
    planned = plan_for_target(target("tvm_cpu"), request, loaded, checkpoint, in_full=False)
    recording = Recording.of(loaded, request, checkpoint, planned)
    expected = {stage.name: stage.seconds for stage in recording.estimates}
    with StageCache(Path(spec["workspace"]["path"])) as cache:
        for key in _keys(spec):
            if cache.get(key) is None:
                cache.publish(key, lambda folder: (folder / "result").write_text("x") and None)
        records = [
            StageRecord(name, seconds=SPEED * estimate if seconds is None else seconds)
            for name, estimate in expected.items()
        ]
        recording.keep(records, cache)
    return plan


def test_nothing_known_is_said(spec: dict[str, Any]) -> None:
    plan = make_plan(spec)
    assert not any(stage.cached for stage in plan.stages)
    assert "nothing has been compiled here yet" in plan.totals()[-1]


def test_the_same_compile_again_is_served_by_the_cache(spec: dict[str, Any]) -> None:
    before = _compile(spec)
    after = make_plan(spec)
    assert [stage.name for stage in after.stages if stage.cached] == ["export", "codegen", "weights"]
    assert all("stage cache" in stage.what for stage in after.stages if stage.cached)
    assert after.seconds < before.seconds / 3 and "compiled here before" in after.totals()[-1]
    _compile(spec, seconds=0.07)
    again = make_plan(spec)
    assert again.seconds == pytest.approx(0.07 * len(again.stages)), "as long as it took when everything was known"


def test_what_was_pruned_takes_as_long_as_it_took(spec: dict[str, Any], tmp_path: Path) -> None:
    before = _compile(spec)
    for place in (tmp_path / "cache/v1").glob("codegen-*"):
        (place / "entry.json").unlink()
    codegen = next(stage for stage in make_plan(spec).stages if stage.name == "codegen")
    expected = next(stage for stage in before.stages if stage.name == "codegen")
    assert not codegen.cached and codegen.seconds == pytest.approx(SPEED * expected.seconds)


def test_another_model_is_estimated_by_this_machines_speed(spec: dict[str, Any], tmp_path: Path) -> None:
    write_tiny(tmp_path / "other", "qwen2")
    other = {**spec, "frontend": {"checkpoint": str(tmp_path / "other")}}
    before = make_plan(other)
    _compile(spec)
    after = make_plan(other)
    assert not any(stage.cached for stage in after.stages) and "1 other compile on this machine" in after.totals()[-1]
    assert after.seconds == pytest.approx(SPEED * before.seconds, rel=0.01)


def test_another_target_goes_by_the_machine_alone(spec: dict[str, Any]) -> None:
    """The code of static graphs is another work than the CPU's, however long that took."""
    spec["frontend"]["shape"] = {"input_ids": [[16], [32]]}
    before = make_plan(spec, ["backend.type=tvm_vacc"])
    _compile(spec)
    after = make_plan(spec, ["backend.type=tvm_vacc"])
    assert "1 other compile" in after.totals()[-1]
    for old, new in zip(before.stages, after.stages, strict=True):
        assert new.cached or new.seconds == pytest.approx(SPEED * old.seconds)


def test_models_share_the_export_of_their_graph(spec: dict[str, Any]) -> None:
    _compile(spec)
    plan = make_plan(spec, ["backend.dtype=bf16"])
    assert [stage.name for stage in plan.stages if stage.cached] == ["export"]


@pytest.mark.parametrize("change", ["checkpoint", "dtype", "sources", "tools", "prompts"])
def test_a_recipe_names_what_stages_depend_on(
    spec: dict[str, Any], change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def now(*overrides: str) -> str:
        loaded = load_spec(spec, overrides).spec
        request = _request(loaded)
        return recipe(loaded, request, open_checkpoint(loaded.frontend.checkpoint, "huggingface"))

    first = now()
    assert now("name=other", f"workspace.path={tmp_path / 'elsewhere'}") == first
    overrides: tuple[str, ...] = ()
    if change == "checkpoint":
        file = next((tmp_path / "tiny").glob("*.safetensors"))
        file.write_bytes(file.read_bytes())
    elif change == "sources":
        monkeypatch.setattr(compile_times, "all_sources", lambda: "others")
    elif change == "tools":
        monkeypatch.setattr(compile_times, "tool_version", lambda tool: "0")
    else:
        overrides = ("backend.dtype=fp32",) if change == "dtype" else ("verify.prompts=[a]",)
    assert now(*overrides) != first


def test_a_damaged_record_is_none(spec: dict[str, Any], tmp_path: Path) -> None:
    _compile(spec)
    for file in (tmp_path / "cache/compiles").iterdir():
        file.write_text("{")
    assert "nothing has been compiled" in make_plan(spec).totals()[-1]


def test_a_cache_that_cannot_be_written_is_left(spec: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/compiles").write_text("a file in its place")
    _compile(spec)
    assert make_plan(spec).seconds > 0
