from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import pytest

from xamc.cli import doctor
from xamc.cli.doctor import PINS, Finding, examine, release
from xamc.targets.kernels.isa import LEVELS

ROOT = Path(__file__).parents[2]


def _of(subject: str) -> Finding:
    (finding,) = (finding for finding in examine() if finding.subject == subject)
    return finding


def test_this_machine_passes() -> None:
    assert [finding for finding in examine() if finding.state == "fail"] == []


def test_deadly_ffi_version_fails_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        return "0.1.15.post2" if name == "apache-tvm-ffi" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    finding = _of("apache-tvm-ffi")
    assert finding.state == "fail"
    assert "segfaults" in finding.found and finding.remedy == "pip install apache-tvm-ffi==0.1.14.post1"


def test_newer_transformers_and_older_jinja_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"transformers": "5.18.0", "jinja2": "3.1.5", "onnx": None}

    def installed(name: str) -> str | None:
        return versions.get(name, "1.31.1" if name == "onnxruntime" else "2.13.0+cpu")

    monkeypatch.setattr(doctor, "_installed", installed)
    assert {name: _of(name).state for name in ("transformers", "jinja2", "onnx", "torch", "onnxruntime")} == {
        "transformers": "warn",
        "jinja2": "warn",
        "onnx": "warn",
        "torch": "ok",
        "onnxruntime": "ok",
    }


def test_missing_compiler_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert _of("C compiler").state == "fail"


def test_little_memory_and_an_unwritable_cache_warn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "available_bytes", lambda: 10**9)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XAMC_CACHE", str(tmp_path / "file"))
    assert _of("memory").state == "warn"
    assert _of("stage cache").state == "warn"


@pytest.mark.parametrize(
    ("level", "state"), [("x86-64-v4+vnni", "ok"), ("x86-64-v2", "warn"), ("aarch64+dotprod", "ok")]
)
def test_the_level_of_the_cpu_is_said(monkeypatch: pytest.MonkeyPatch, level: str, state: str) -> None:
    monkeypatch.setattr(doctor, "cpu_features", lambda: frozenset(LEVELS[level].cpu_flags))
    finding = _of("CPU")
    assert finding.state == state and f": {level} (" in finding.found


def test_a_cpu_without_vectors_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "cpu_features", lambda: frozenset({"fpu"}))
    finding = _of("CPU")
    assert finding.state == "fail" and "x86-64" in finding.remedy


def test_affinity_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert "of 64" in _of("CPUs").found


@pytest.mark.parametrize(
    ("text", "numbers"), [("2.13.0+cpu", (2, 13, 0)), ("0.1.14.post1", (0, 1, 14)), ("5.17.0.dev0", (5, 17, 0))]
)
def test_release(text: str, numbers: tuple[int, ...]) -> None:
    assert release(text) == numbers


def test_pins_agree_with_the_constraints_file() -> None:
    constraints = (ROOT / "constraints.txt").read_text()
    for name, (version, _) in PINS.items():
        assert f"\n{name}=={version} " in constraints
