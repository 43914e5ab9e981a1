"""Tokenizers for old releases: another spelling of the merges, the same tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tools.make_checkpoint import tokenizer_json
from xamc.compiler.handoff.tokenizer_files import portable_tokenizer, write_tokenizer


def _trained(space: bool = False) -> bytes:
    """A byte-level tokenizer with a few merges, as this release of the library writes it; with one over a space."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    extra = ["th", "the", "an", *([" a", " an"] if space else [])]
    vocabulary = {token: i for i, token in enumerate([*alphabet, " ", *extra])}
    merges = [("t", "h"), ("th", "e"), ("a", "n"), *([(" ", "a"), (" a", "n")] if space else [])]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text: str = tokenizer.to_str()
    return text.encode()


@given(st.text(max_size=60))
def test_same_tokens(text: str) -> None:
    content = _trained()
    portable, notes = portable_tokenizer(content)
    assert notes == () and json.loads(portable)["model"]["merges"] == ["t h", "th e", "a n"]
    assert isinstance(json.loads(content)["model"]["merges"][0], list)
    first, second = Tokenizer.from_str(content.decode()), Tokenizer.from_str(portable.decode())
    assert first.encode(text).ids == second.encode(text).ids


def test_what_has_no_old_spelling_is_told() -> None:
    content = _trained(space=True)
    assert portable_tokenizer(content) == (
        content,
        ("tokenizer.json holds merges of tokens with spaces, which need tokenizers 0.20 or later",),
    )


@pytest.mark.parametrize("content", [tokenizer_json(), b'{"model": {"type": "WordLevel"}}', b"{}"])
def test_others_stay_byte_by_byte(content: bytes) -> None:
    assert portable_tokenizer(content) == (content, ())


def test_files_are_copied(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_bytes(_trained())
    (tmp_path / "out").mkdir()
    files = {"tokenizer.json": tmp_path / "in.json", "tokenizer_config.json": b'{"bos_token": "\xe2\x96\x81"}'}
    names, notes = write_tokenizer(tmp_path / "out", files)
    assert names == list(files) and notes == ()
    assert (tmp_path / "out" / "tokenizer_config.json").read_bytes() == files["tokenizer_config.json"]
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_text())["model"]["merges"][0] == "t h"
