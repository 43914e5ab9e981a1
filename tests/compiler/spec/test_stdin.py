"""A spec that comes through a pipe is read once, by every command that takes one."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from tests.checkpoints import write_tiny
from xamc.cli import main as cli
from xamc.compiler.pipeline import compile_spec
from xamc.compiler.spec import SpecErrors, load_spec

TEXT = "frontend:\n  checkpoint: tiny\nbackend:\n  type: tvm_cpu\n  dytpe: fp32\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path / "tiny", "llama")
    return tmp_path


def stdin(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode()), isatty=lambda: False))


@pytest.fixture
def pipe(here: Path) -> Iterator[Path]:
    """A named pipe that holds the spec once, as ``<(...)`` does."""
    path = here / "pipe"
    os.mkfifo(path)
    writer = Thread(target=lambda: path.write_text(TEXT))
    writer.start()
    yield path
    reader = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # lets a writer end that nobody has read
    writer.join()
    os.close(reader)


def test_a_plan_of_a_pipe(pipe: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["plan", str(pipe)]) == 0
    captured = capsys.readouterr()
    assert "weights.bin" in captured.out and f"{here / 'vacc_deploy'}" in captured.out
    assert captured.out.startswith("tiny "), "named after the checkpoint: a pipe has no name"
    assert "pipe:5:3" in captured.err and "5 |   dytpe: fp32" in captured.err


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_plan_of_stdin(
    here: Path, options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin(monkeypatch, TEXT)
    assert cli.run(["plan", "-", *options]) == 0
    captured = capsys.readouterr()
    if options:
        plan = json.loads(captured.out)
        assert plan["name"] == "tiny" and plan["warnings"][0]["locations"][0]["path"] == "<stdin>"
    else:
        assert "weights.bin" in captured.out and "<stdin>:5:3" in captured.err


def test_errors_of_a_compile_show_the_lines_of_stdin(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin(monkeypatch, TEXT.replace("dytpe: fp32", "type: tvm_gpu"))
    assert cli.run(["compile", "-"]) == 1
    assert "<stdin>:5:3  E1006" in (err := capsys.readouterr().err) and "5 |   type: tvm_gpu" in err
    stdin(monkeypatch, TEXT.replace("dytpe", "dtype") + "passes: {disable: [foo]}\n")
    assert cli.run(["compile", "-"]) == 1
    assert "<stdin>:6:20  E1306" in (err := capsys.readouterr().err) and "6 | passes: {disable: [foo]}" in err


def test_stdin_is_relative_to_the_current_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, TEXT)
    spec = load_spec("-").spec
    assert (spec.frontend.checkpoint, spec.name, spec.source) == (str(here / "tiny"), "tiny", None)
    stdin(monkeypatch, "")
    with pytest.raises(SpecErrors, match="E1010"):
        load_spec(Path("-"))
    stdin(monkeypatch, TEXT)
    assert load_spec("-", ["name=other"]).spec.name == "other"


def test_a_compile_of_stdin(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAMC_CACHE", str(here / "cache"))
    stdin(monkeypatch, TEXT.replace("tvm_cpu", "reference") + "verify: {passes: off}\n")
    compiled = compile_spec("-")
    assert compiled.path == here / "vacc_deploy/tiny" and compiled.manifest.name == "tiny"
