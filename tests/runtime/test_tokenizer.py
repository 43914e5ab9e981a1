"""The artifact's tokenizer files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xamc.errors import InputError
from xamc.runtime.tokenizer import Tokenizer


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Any) -> Path:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_text_there_and_back(folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    for text in ("the quick brown fox", "你好 😀", "", "  two  "):
        assert tokenizer.decode(tokenizer.encode(text).tolist()) == text
    assert tokenizer.encode("fox").dtype.name == "int64"
    assert tokenizer.token(1) == "<eos>" and tokenizer.token(10**6) is None
    assert tokenizer.special_tokens == {}


def test_nothing_is_cut_or_filled(folder: Path, tokenizer: Any) -> None:
    """Training runs leave truncation and padding in tokenizer.json."""
    from tokenizers import Tokenizer as Library

    changed = Library.from_str(tokenizer.to_str())
    changed.enable_truncation(2)
    changed.enable_padding(length=9)
    changed.save(str(folder / "tokenizer.json"))
    want = tokenizer.encode("the quick brown fox jumps").ids
    assert len(want) > 2
    assert Tokenizer(folder).encode("the quick brown fox jumps").tolist() == want


def test_special_tokens_in_either_form(folder: Path) -> None:
    config = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>", "pad_token": None, "x": 1}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer(folder).special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_damaged_files_are_named(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    if (name, content) == ("tokenizer_config.json", "[1]"):
        assert Tokenizer(folder).special_tokens == {}
        return
    with pytest.raises(InputError, match=rf"E1613.*{name}"):
        Tokenizer(folder)


def test_missing_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"E1613.*tokenizer\.json is missing"):
        Tokenizer(tmp_path)
