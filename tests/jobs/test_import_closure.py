"""A stage's key changes with every module that the stage runs; what it runs is found, never listed."""

from __future__ import annotations

import ast
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import xamc
from xamc.jobs.cache import distribution, stage_key, tool_version
from xamc.jobs.import_closure import import_closure

SOURCES = Path(xamc.__file__).parent
# (who asks for the key, stage) → the constant there that names what does the work; None for a stage that does none
STAGES: dict[tuple[str, str], str | None] = {
    ("xamc.compiler.stages.export", "export"): "_CHILD",
    ("xamc.compiler.stages.onnx_import", "import"): "_CHILD",
    ("xamc.compiler.stages.kv_scales", "kv_scales"): "_CALIBRATION",
    ("xamc.compiler.stages.real_weights", "real_weights"): "_CHILD",
    ("xamc.targets.vacc.build", "weights"): "_WRITING",
    ("xamc.targets.weights_file", "weights"): "_PACKING",
    ("xamc.targets.cpu.library", "codegen"): "_CODE_CHILD",
    ("xamc.targets.cpu.library", "kernel_proof"): "_PROOF_CHILD",
    ("xamc.targets.cpu.library", "proof"): "_PROOF_CHILD",
    ("xamc.targets.cpu.tune.tune", "problems"): "_PROBLEMS_CHILD",
    ("xamc.targets.cpu.tune.tune", "tune"): "_SEARCH",
    ("xamc.targets.onnx.library", "codegen"): "_CHILD",
    ("xamc.targets.reference.build", "reference"): None,
    ("xamc.targets.vacc.bucket_code", "codegen"): "_CHILD",
}


def _runs(maker: str, name: str | None) -> tuple[str, ...]:
    if name is None:
        return ()
    return (getattr(importlib.import_module(maker), name),)


def _place(root: Path, module: str) -> Path:
    place = root.joinpath(*module.split(".")[1:])
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of xamc's sources that keys are computed from."""
    root = tmp_path / "xamc"
    shutil.copytree(SOURCES, root, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(xamc, "__file__", str(root / "__init__.py"))
    return root


def test_these_are_all_the_stages() -> None:
    found = set()
    for file in SOURCES.rglob("*.py"):
        module = ".".join(("xamc", *file.relative_to(SOURCES).with_suffix("").parts))
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "stage_key":
                stage, maker, *_ = node.args
                assert isinstance(stage, ast.Constant) and isinstance(maker, ast.Name) and maker.id == "__name__"
                found.add((module, stage.value))
    assert found == set(STAGES)


@pytest.mark.parametrize(("maker", "stage"), STAGES)
def test_each_module_that_a_stage_runs_changes_its_key(maker: str, stage: str, copy: Path) -> None:
    runs = _runs(maker, STAGES[maker, stage])

    def key() -> str:
        return stage_key(stage, maker, runs, {}).digest

    seen = [key()]
    for outside in ("xamc.cli.main", "xamc.errors.explain.weights", "xamc.cli.commands.golden"):
        with _place(copy, outside).open("a") as file:
            file.write("\n# changed\n")
    assert key() == seen[0]
    for module in (maker, *import_closure(runs).modules):
        with _place(copy, module).open("a") as file:
            file.write("\n# changed\n")
        seen.append(key())
        # the maker may be in the closure, too
        assert len(set(seen)) == len(seen), f"{stage} is served from before a change of {module}"


def test_a_kernel_changes_the_key_of_a_graphs_code(copy: Path) -> None:
    maker, stage = "xamc.targets.onnx.library", "codegen"
    runs = _runs(maker, STAGES[maker, stage])
    before = stage_key(stage, maker, runs, {})
    with (copy / "targets/kernels/convolution.py").open("a") as file:
        file.write("\n# another loop order\n")
    after = stage_key(stage, maker, runs, {})
    assert after != before
    assert [part for part in after.parts if after.parts[part] != before.parts[part]] == ["source xamc.targets.kernels"]


@pytest.mark.parametrize(
    "work",
    [
        "xamc.targets.onnx.build",
        "xamc.targets.vacc.compile_bucket",
        "xamc.targets.cpu.compile_library",
        "xamc.targets.cpu.prove",
        "xamc.targets.cpu.tune.compile",
        "xamc.verify.kv_calibration",
    ],
)
def test_what_python_imports_is_in_the_closure(work: str) -> None:
    code = f"import importlib, json, sys; importlib.import_module({work!r}); print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = json.loads(done.stdout)
    closure = import_closure([work])
    assert {module for module in imported if module.split(".")[0] == "xamc"} <= set(closure.modules)
    missing = [library for library in closure.libraries if tool_version(distribution(library)) == "absent"]
    assert missing == []


def test_forms_of_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {
        "__init__": "",
        "main": (
            "from typing import TYPE_CHECKING\n"
            "import typing, json, numpy.linalg\n"
            "from xamc.a import module, name\n"
            "if TYPE_CHECKING:\n    import xamc.typed\nelse:\n    import xamc.otherwise\n"
            "if typing.TYPE_CHECKING:\n    import xamc.typed\n"
            "def late():\n    from . import relative\n    import torch\n"
            "    return 'xamc.child:run', 'see xamc.doc:run'\n"
        ),
        "a/__init__": "name = 1\ndef __getattr__(name):\n    import xamc.a.lazy\n",
        "a/module": "from .. import up\nfrom .deep import x as y\n",
        "a/lazy": "",
        "a/deep/__init__": "from importlib import import_module\nimport_module(f'{__name__}.{x}')\n",
        "a/deep/one": "",
        "a/deep/two/__init__": "",
        "b/__init__": "import xamc.b.shown\ndef __getattr__(name):\n    import xamc.b.lazy\n",
        "b/shown": "",
        "b/lazy": "",
        "b/inner": "",
        **dict.fromkeys(("typed", "doc", "unused", "up"), ""),
        "otherwise": "import xamc.b.inner\n",
        "relative": "",
        "child": "",
    }
    for name, text in sources.items():
        path = tmp_path / "xamc" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(xamc, "__file__", str(tmp_path / "xamc/__init__.py"))
    closure = import_closure(["xamc.main:function"])
    wanted = "a a.module a.lazy a.deep a.deep.one a.deep.two b b.shown b.inner child main otherwise relative up"
    # b's functions are called by nobody, a's may be: main imports a name of it
    assert closure.modules == tuple(sorted(("xamc", *(f"xamc.{name}" for name in wanted.split()))))
    assert closure.libraries == ("numpy", "torch")
    with pytest.raises(ValueError, match=r"xamc\.none"):
        import_closure(["xamc.none:run"])
