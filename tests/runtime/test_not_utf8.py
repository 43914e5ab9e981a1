"""Prompts that are no text: an error that says where, whichever way they come."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xamc.cli.commands.failure import report_failure
from xamc.errors import InputError
from xamc.runtime import Model, load

BYTES = "the quick \udcff fox"  # what Python makes of b"the quick \xff fox" on a command line


@pytest.fixture(scope="module")
def model(toy_path: Path) -> Model:
    return load(toy_path, threads=1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m.generate(BYTES, 2), "the byte 0xff stands at position 10"),
        (lambda m: m.generate(["fox", BYTES], 2), "the byte 0xff stands at position 10"),
        (lambda m: m.stream(BYTES, 2), "0xff"),
        (lambda m: m.generate("a \ud83d b", 2), r"a lone surrogate, U\+D83D stands at position 2"),
        (lambda m: m.generate(b"caf\xe9", 2), "the byte 0xe9 stands at position 3"),
        (lambda m: m.chat([{"role": "user", "content": BYTES}], 2), "0xff"),
        (lambda m: m.chat_prompt([{"role": "user", "content": "a"}], template=BYTES), "0xff"),
        (lambda m: m.tokenizer.encode(BYTES), "0xff"),
        (lambda m: m.fill_cache(BYTES, 8), "0xff"),
        (lambda m: m.generate("fox", 2, stop=["a", BYTES]), "a stop string is not UTF-8"),
    ],
)
def test_the_error_says_where(model: Model, call: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"E1651.*{said}"):
        call(model)


def test_bytes_of_utf_8_are_a_prompt(model: Model) -> None:
    text = "the quick 你好 😀"
    assert model.generate(text.encode(), 3).token_ids == model.generate(text, 3).token_ids


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
@pytest.mark.parametrize("way", ["--prompt", "stdin", "--chat"])
def test_the_command_line(toy_path: Path, way: str, locale: str) -> None:
    prompt: list[Any] = {"--prompt": [b"w5 \xff w6"], "stdin": ["-"], "--chat": [b"w5 \xff w6", "--chat"]}[way]
    command = [sys.executable, "-m", "xamc", "run", toy_path, "--max-new-tokens", "2", "--prompt", *prompt]
    environment = {**os.environ, "LC_ALL": locale}
    done = subprocess.run(command, input=b"w5 \xff w6\n", capture_output=True, env=environment)
    said = done.stderr.decode()
    assert done.returncode == 1 and "Traceback" not in said
    assert "E1651" in said and "0xff stands at position 3" in said


@pytest.mark.parametrize("arguments", [["inspect"], ["inspect", "--json"], ["run", "--prompt", "a"]])
def test_a_path_that_is_no_text(arguments: list[str]) -> None:
    command: list[Any] = [sys.executable, "-m", "xamc", arguments[0], b"/none/w\xff", *arguments[1:]]
    done = subprocess.run(command, capture_output=True)
    said = done.stderr.decode()
    assert done.returncode == 1 and "Traceback" not in said and "E1504" in said, said


def test_the_failure_reporter_takes_whatever_the_command_line_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XAMC_CACHE", str(tmp_path))
    assert report_failure(ValueError(BYTES), ["run", BYTES], as_json=False, debug=False) == 70
    assert "E1700" in capsys.readouterr().err
    (log,) = (tmp_path / "logs").iterdir()
    assert r"the quick \udcff fox" in log.read_text(encoding="utf-8")
