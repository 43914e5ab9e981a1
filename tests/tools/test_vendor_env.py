"""Which Python the vendor's pins get; the environment itself is made where one is found, by hand."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tools import vendor_env


def _fake_python(folder: Path, name: str, version: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_only_versions_with_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = _fake_python(tmp_path, "old", "3.9"), _fake_python(tmp_path, "new", "3.11")
    assert vendor_env.find_python(old) == old
    with pytest.raises(SystemExit, match=r"no Python 3\.8, 3\.9 or 3\.10 found"):
        vendor_env.find_python(new)
    monkeypatch.setattr(vendor_env, "interpreters", lambda: iter([str(tmp_path / "absent"), new, old]))
    assert vendor_env.find_python(None) == old
    assert vendor_env.version_of(str(tmp_path / "absent")) is None


def test_pyenv_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "versions" / "3.8.18" / "bin").mkdir(parents=True)
    found = _fake_python(tmp_path / "versions" / "3.8.18" / "bin", "python", "3.8")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    commands = list(vendor_env.interpreters())
    assert found in commands and commands[0] == "python3.8"


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(vendor_env, "find_python", lambda wanted: "python3.8")
    monkeypatch.setattr(vendor_env, "version_of", lambda command: "3.8")

    def ran(command: list[str], check: bool) -> None:
        calls.append(command)
        (tmp_path / "env" / "bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / "env" / "bin" / "python").touch()

    monkeypatch.setattr(vendor_env.subprocess, "run", ran)
    for _ in range(2):
        assert vendor_env.make_environment(tmp_path / "env", None) == tmp_path / "env" / "bin" / "python"
    assert len(calls) == 3 and calls[0][1:3] == ["-m", "venv"]
    assert "onnx==1.14.0" in calls[2] and "onnxruntime==1.13.1" in calls[2]


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no hand-off"):
        vendor_env.main([str(tmp_path)])
