"""An artifact's folder is asked for room and for permission before the work."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import onnx_models
from tests.checkpoints import write_tiny
from xamc.artifact import staging
from xamc.cli import main as cli
from xamc.compiler.plan import disk_space as room
from xamc.errors import InputError
from xamc.jobs.cache import StageCache, StageKey
from xamc.targets.planned import PlannedFile, TargetPlan

FILES = (PlannedFile("weights.bin", 3000, ""), PlannedFile("code", 500, ""))
PLANNED = TargetPlan(FILES, weights=3000, code=500, stages=(), run_bytes=0)


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XAMC_CACHE", str(tmp_path / "cache"))
    write_tiny(tmp_path / "tiny", "llama")
    spec = {
        "name": "tiny",
        "frontend": {"checkpoint": "tiny", "shape": {"input_ids": [[16], [32]]}},
        "backend": {"type": "tvm_cpu"},
        "workspace": {"path": str(tmp_path / "out")},
    }
    (tmp_path / "build.yaml").write_text(json.dumps(spec))
    return tmp_path / "build.yaml"


@pytest.mark.parametrize("options", [[], ["--target", "vacc"], ["--target", "ascend"], ["--dump-ir", "/proc/self"]])
def test_a_folder_that_takes_no_files_is_refused_before_the_export(
    build: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    output = [] if "--dump-ir" in options else ["-o", "/proc/self/artifact"]
    assert cli.run(["compile", str(build), *options, *output]) == 1
    captured = capsys.readouterr()
    assert "E1507" in captured.err and "/proc/self can't be written" in captured.err
    assert " export " not in captured.out


def test_so_is_that_of_a_graph_and_of_a_hand_off(
    build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx_models.write("resnet", tmp_path / "graph.onnx")
    graph = tmp_path / "graph.yaml"
    graph.write_text("frontend: {checkpoint: graph.onnx, type: onnx}\nbackend: {type: tvm_cpu}\n")
    for command in (["compile", str(graph)], ["export-vamc", str(build), "--target", "vacc"]):
        assert cli.run([*command, "-o", "/proc/self/artifact"]) == 1
        captured = capsys.readouterr()
        assert "E1507" in captured.err
        assert " frontend " not in captured.out


def test_a_read_only_disk_is_found_by_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))

    staging.require_writable(tmp_path / "new/folder")
    assert list((tmp_path / "new/folder").iterdir()) == []
    monkeypatch.setattr(staging.tempfile, "TemporaryFile", refuse)
    with pytest.raises(InputError, match=r"E1507.*Read-only file system"):
        staging.require_writable(tmp_path)


def test_a_plan_refuses_what_it_may_not_write(
    build: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["plan", str(build)]) == 0
    # root may write anywhere
    refusing = SimpleNamespace(access=lambda *_: False, strerror=os.strerror, W_OK=os.W_OK, X_OK=os.X_OK)
    monkeypatch.setattr(room, "os", refusing)
    assert cli.run(["plan", str(build)]) == 1
    captured = capsys.readouterr()
    assert "weights.bin" in captured.out and "E1507" in captured.err
    monkeypatch.undo()
    (build.parent / "out").write_text("a file")
    assert cli.run(["plan", str(build)]) == 1
    assert "out can't be written: Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["cpu", "vacc", "ascend"])
def test_a_disk_that_is_too_small_is_refused_before_the_export(
    build: Path, target: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(room, "free_bytes", lambda path: 20_000)
    assert cli.run(["compile", str(build), "--target", target]) == 1
    captured = capsys.readouterr()
    assert "E1711" in captured.err and "20 kB are free" in captured.err
    assert " export " not in captured.out


def test_weights_that_the_cache_holds_take_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAMC_CACHE", str(tmp_path / "cache"))
    assert room.needed_bytes(PLANNED, tmp_path) == 3500
    with StageCache(tmp_path / "scratch") as cache:
        cache.publish(StageKey("weights", "ab" * 32), lambda folder: _write(folder / "weights.bin", 3000))
        assert room.needed_bytes(PLANNED, tmp_path) == 500
        assert room.needed_bytes(replace(PLANNED, weights=2999), tmp_path) == 3500


def test_a_cache_on_another_disk_needs_room_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAMC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(room, "_device", lambda path: path.name == "cache")
    free = {"cache": 3000, "out": 10_000}
    monkeypatch.setattr(room, "free_bytes", lambda path: free[path.name])
    with pytest.raises(InputError, match=r"E1711.*cache"):
        room.require_room_for("tiny", PLANNED, tmp_path / "out", use_cache=True)
    room.require_room_for("tiny", PLANNED, tmp_path / "out", use_cache=False)


def _write(path: Path, nbytes: int) -> None:
    path.write_bytes(bytes(nbytes))
