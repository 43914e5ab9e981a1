"""One artifact for several CPU levels: what is in it, and which library a machine runs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xamc.compiler
from tests.end_to_end.models import Workshop, spec
from xamc.artifact import check_digests, read_artifact
from xamc.compiler.pipeline import Compiled
from xamc.errors import InputError, XamcError
from xamc.runtime import cpu_features, load
from xamc.targets.cpu.codegen import CROSS_LINKER
from xamc.targets.kernels.isa import LEVELS, Isa

LEVELS_ASKED = ["x86-64-v3", "x86-64-v2"]
TOKENS = np.array([[1, 5, 9, 200, 17]])


@pytest.fixture(scope="module")
def fat(workshop: Workshop) -> Compiled:
    backend = {"type": "tvm_cpu", "dtype": "fp32", "compile": {"cpu": LEVELS_ASKED}}
    return workshop.compiled(workshop.checkpoint("llama"), "fat", backend=backend)


def cpuinfo(folder: Path, level: str) -> Path:
    path = folder / level
    path.write_text(f"flags\t\t: fpu {' '.join(LEVELS[level].cpu_flags)}\n")
    return path


def test_libraries_lie_side_by_side_on_one_weights_file(fat: Compiled) -> None:
    manifest = read_artifact(fat.path).manifest
    assert [code.file for code in manifest.codes] == ["code/model-x86-64-v2.so", "code/model-x86-64-v3.so"]
    assert sorted(path.name for path in fat.path.iterdir() if path.suffix == ".bin") == ["weights.bin"]
    assert {"weights.bin", *(code.file for code in manifest.codes)} <= manifest.needed_files()
    check_digests(read_artifact(fat.path))


@pytest.mark.parametrize("level", LEVELS_ASKED)
def test_a_machine_runs_the_best_library_that_it_can(
    fat: Compiled, level: str, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = workshop.model(workshop.checkpoint("llama")).logits(TOKENS)
    path = cpuinfo(tmp_path, level)
    for function in (cpu_features.missing_features, cpu_features.best_code):
        monkeypatch.setattr(function, "__defaults__", (path,))
    model = load(fat.path, threads=1)
    assert model.cpu_level == level
    np.testing.assert_allclose(model.logits(TOKENS), expected, rtol=1e-4, atol=1e-4)


def test_inspect_and_run_say_which(fat: Compiled, capsys: pytest.CaptureFixture[str]) -> None:
    from xamc.cli.main import run

    assert run(["inspect", str(fat.path)]) == 0
    shown = capsys.readouterr().out
    assert "2 CPU levels" in shown and shown.count("run on this machine") == 1
    cpus = str(min(os.sched_getaffinity(0)))
    arguments = ["run", str(fat.path), "--prompt", "fox", "--max-new-tokens", "2", "--ignore-eos", "--cpu-list", cpus]
    before = os.sched_getaffinity(0)
    try:
        assert run([*arguments, "--json"]) == 0
    finally:
        os.sched_setaffinity(0, before)
    answer = json.loads(capsys.readouterr().out)
    assert (answer["cpu_level"], answer["threads"]) == ("x86-64-v3", 1) and answer["ready_s"] > 0


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"cpu": ["x86-64-v2"], "mcpu": "native"}, "E1481"),
        ({"cpu": []}, "E1481"),
        ({"cpu": ["x86-64", "x86-64"]}, "E1481"),
        ({"cpu": ["x86-64", "pentium"]}, "E1461"),
    ],
)
def test_levels_that_make_no_sense(workshop: Workshop, options: dict[str, Any], code: str) -> None:
    document = spec(workshop.checkpoint("llama"), backend={"type": "tvm_cpu", "dtype": "fp32", "compile": options})
    with pytest.raises(XamcError) as caught:
        xamc.compiler.compile(document)
    assert caught.value.code == code
    assert isinstance(caught.value, InputError) is (code == "E1481")


@pytest.mark.skipif(shutil.which(CROSS_LINKER) is None, reason=f"needs {CROSS_LINKER}")
def test_an_artifact_for_another_architecture_is_linked_for_it(workshop: Workshop) -> None:
    backend = {"type": "tvm_cpu", "dtype": "fp32", "compile": {"cpu": ["x86-64-v2", "aarch64+dotprod"]}}
    compiled = workshop.compiled(workshop.checkpoint("llama"), "both", backend=backend)
    manifest = read_artifact(compiled.path).manifest
    machines = [(compiled.path / code.file).read_bytes()[18:20] for code in manifest.codes]
    assert machines == [b"\x3e\0", b"\xb7\0"], "EM_X86_64, EM_AARCH64"
    assert Isa.host().is_arm is False and load(compiled.path, threads=1).cpu_level == "x86-64-v2"


def test_no_cross_linker_is_said(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(shutil.which("gcc") or "/").parent / "nowhere"))
    from xamc.targets.cpu.codegen import _cross_linker

    with pytest.raises(XamcError, match=f"E1480 {CROSS_LINKER}"):
        _cross_linker()
