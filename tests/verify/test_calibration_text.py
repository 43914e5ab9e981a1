"""Calibration files of every kind, and how texts become pieces of tokens."""

import json
from pathlib import Path

import numpy as np
import pytest

from xamc.errors import InputError
from xamc.verify.calibration_text import DEFAULT_TEXTS, read_texts, token_samples

ALPACA = [{"instruction": "Add.", "input": "2 and 3", "output": "5"}, {"instruction": "Name a river.", "output": "Po"}]


class Characters:
    """A tokenizer whose tokens are code points."""

    def encode(self, text: str) -> np.ndarray:
        return np.array([ord(character) for character in text], np.int64)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "one\n\ntwo", ["one\n\ntwo"]),
        ("a.json", json.dumps(["one", "two"]), ["one", "two"]),
        ("alpaca.json", json.dumps(ALPACA), ["Add.\n2 and 3\n5", "Name a river.\nPo"]),
        ("a.jsonl", '{"text": "eins", "meta": {"n": 1}}\n\n"zwei"\n', ["eins", "zwei"]),
        ("b.JSON", json.dumps(["", {"n": 3}, "left"]), ["left"]),
    ],
)
def test_texts_of_every_format(name: str, content: str, expected: list[str], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert read_texts(path) == expected


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"a,b", "none of .json, .jsonl, .txt"),
        ("a.txt", b"\xff\xfe", "utf-8"),
        ("a.txt", b"  \n", "no text"),
        ("a.json", b"{}", "not a list"),
        ("a.json", b"[1]", "an entry is int"),
        ("a.jsonl", b'"one"\n{', "Expecting property name"),
        ("a.json", None, "No such file"),
    ],
)
def test_another_file_is_refused_by_name(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_texts(path)
    assert error.value.code == "E1345" and str(path) in error.value.message and words in error.value.message


def test_texts_are_cut_into_pieces() -> None:
    pieces = token_samples(Characters(), ["abcde", "xy"], 3, 2, 200)  # type: ignore[arg-type]
    assert ["".join(map(chr, piece)) for piece in pieces] == ["ab", "cd", "e"]


@pytest.mark.parametrize(("texts", "words"), [([""], "no token"), (["a", "é"], "token 233, and the model has 200")])
def test_tokens_of_another_model_are_refused(texts: list[str], words: str) -> None:
    with pytest.raises(InputError) as error:
        token_samples(Characters(), texts, 8, 4, 200)  # type: ignore[arg-type]
    assert error.value.code == "E1346" and words in error.value.message


def test_xamcs_own_text_is_diverse() -> None:
    text = "\n".join(DEFAULT_TEXTS)
    assert 3000 < len(text) < 8000
    for sample in ("def ", "SELECT", "量化误差", "Köln", "новый", "13,493.28", "https://", "\n\n"):
        assert sample in text
