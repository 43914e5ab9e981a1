"""docs/add-a-target.md: its target, a folder and a registry call, is planned, compiled, run, and refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xamc.compiler
from tests.checkpoints import write_tiny
from tests.cpu_level.emulated_level import python_path
from xamc.cli import main as cli
from xamc.compiler.pipeline import compile_spec
from xamc.compiler.plan.plan import make_plan
from xamc.compiler.spec import SpecErrors, key_uses, load_spec
from xamc.compiler.spec.schema import json_schema
from xamc.errors import InputError, UnsupportedError
from xamc.runtime import load
from xamc.runtime.executors import registry as executors
from xamc.targets import registry

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "toy_text"
PAGE = (ROOT / "docs" / "add-a-target.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's call, with the folder on the path, as a package's is; the registries are what they were afterwards."""
    monkeypatch.setenv("PYTHONPATH", python_path(ROOT))
    monkeypatch.setattr(executors, "_EXECUTORS", dict(executors._EXECUTORS))
    known = set(registry.CAPS)
    (call,) = re.findall(r"^register\(.*\)$", PAGE, re.MULTILINE)
    exec(call, {"register": registry.register})
    yield
    for name in set(registry.CAPS) - known:
        del registry.CAPS[name], registry._PACKAGES[name]


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    return {
        "name": "tiny",
        "frontend": {
            "checkpoint": str(write_tiny(tmp_path / "tiny", "llama")),
            "shape": {"input_ids": [[16], [48]]},
            "model_kwargs": {"tp": 2},
        },
        "backend": {"type": "toy_text", "dtype": "fp16", "compile": {"comment": "for reading"}},
        "workspace": {"path": str(tmp_path / "out")},
    }


def test_the_page_shows_the_files_as_they_are() -> None:
    shown = dict(re.findall(r"^## [^\n]*`(\w+\.py)`\n.*?^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
    assert set(shown) == {file.name for file in FOLDER.glob("*.py")} - {"__init__.py"}
    for name, text in shown.items():
        assert text == (FOLDER / name).read_text(encoding="utf-8"), f"docs/add-a-target.md has another {name}"


def test_it_is_planned(spec: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(spec)
    assert [stage.name for stage in plan.stages][-3:] == ["passes", "codegen", "publish"]
    assert plan.passes == ("cleanup", "weight_storage") and plan.files[0].path == "code/graph.txt"
    assert any("tp becomes 1" in str(warning) for warning in plan.warnings)
    (tmp_path / "build.yaml").write_text(json.dumps(spec))
    assert cli.run(["plan", str(tmp_path / "build.yaml")]) == 0
    shown = capsys.readouterr().out
    assert "code/graph.txt" in shown and "the first line of the graph's text" in shown
    assert cli.run(["targets"]) == 0 and "the graph as text" in capsys.readouterr().out


def test_it_compiles_and_runs(spec: dict[str, Any]) -> None:
    """With every pass proven, its golden logits recorded by a child process, and within float16 of the reference."""
    compiled = xamc.compiler.compile(spec)
    assert (compiled.path / "code/graph.txt").read_text().startswith("# for reading\n")
    assert compiled.report["lines"] > 100 and compiled.manifest.golden is not None
    assert all(entry["deviation"] is not None for entry in compiled.report["graph_passes"])
    reference = xamc.compiler.compile(
        spec | {"name": "reference"}, backend={"type": "reference", "compile": {}}, verify={"passes": "off"}
    )
    tokens = np.array([[5, 9, 200, 7]])
    found, wanted = (load(artifact.path, threads=1).logits(tokens) for artifact in (compiled, reference))
    np.testing.assert_array_equal(found, wanted)


def test_it_refuses(spec: dict[str, Any]) -> None:
    for changes, code in (
        (["runtime.max_batch=9"], "E1410"),  # its own
        (["backend.dtype=bf16"], "E1410"),  # by its capabilities
        (["frontend.quantize.type=w8a16_rtn", "backend.dtype=int8"], "E1408"),
        (["passes.disable=[cleanup]"], "E1314"),
    ):
        for refuse in (make_plan, compile_spec):
            with pytest.raises((UnsupportedError, InputError)) as caught:
                refuse(spec, changes)
            assert caught.value.code == code
    spec["backend"]["compile"]["comment"] = "two\nlines"
    with pytest.raises(SpecErrors, match="E1025"):
        load_spec(spec)


def test_its_key_is_the_spec_s(spec: dict[str, Any]) -> None:
    uses = {use.path: use.use for use in key_uses(load_spec(spec), "toy_text")}
    assert uses["backend.compile.comment"] == "used" and uses["frontend.model_kwargs.tp"] == "no effect"
    others = {use.path: use.reason for use in key_uses(load_spec(spec), "tvm_vacc")}
    assert others["backend.compile.comment"] == "nobody reads the code"
    schema = json_schema()["properties"]["backend"]["properties"]
    assert "toy_text" in str(schema["type"]) and "comment" in schema["compile"]["properties"]


def test_what_nobody_registered_is_no_target(spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = xamc.compiler.compile(spec, verify={"passes": "off"}).path
    monkeypatch.delitem(executors._EXECUTORS, "toy_text")
    with pytest.raises(UnsupportedError, match="E1610"):
        load(artifact)
