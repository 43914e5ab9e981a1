"""Folders made to hang, to crash or to fill the memory of whoever opens them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import write_tiny
from xamc.compiler.frontends import open_checkpoint
from xamc.errors import InputError
from xamc.runtime.tokenizer import Tokenizer


def pipe_for_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def pipe_for_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.model")


def pipe_for_a_template(folder: Path) -> None:
    os.mkfifo(folder / "chat_template.jinja")


def device_for_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/dev/zero")


def growing_normalizer(folder: Path) -> None:
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 20}
    change_tokenizer(folder, normalizer={"type": "Sequence", "normalizers": [step] * 12})


def change_tokenizer(folder: Path, **parts: Any) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (pipe_for_weights, "E1111", "regular file"),
        (pipe_for_a_tokenizer, "E1134", "regular file"),
        (pipe_for_a_template, "E1103", "chat_template.jinja"),
        (device_for_weights, "E1111", "regular file"),
        (growing_normalizer, "E1134", "normalizer"),
    ],
)
def test_refused_at_once(damage: Callable[[Path], None], code: str, words: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", "llama")
    damage(folder)
    with pytest.raises(InputError) as caught:
        open_checkpoint(folder, "huggingface")
    assert caught.value.code == code and words in caught.value.message


def test_an_expression_that_takes_for_ever(tmp_path: Path) -> None:
    """The library gives up after some million steps, by a panic that is no `Exception`."""
    folder = write_tiny(tmp_path / "model", "llama")
    pattern = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    change_tokenizer(folder, pre_tokenizer=pattern)
    with pytest.raises(InputError) as caught:
        Tokenizer(folder).encode("a" * 40 + "!")
    assert caught.value.code == "E1613" and "Regex" in caught.value.message
