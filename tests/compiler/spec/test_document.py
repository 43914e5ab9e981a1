"""Tests of the YAML reader: what it refuses, where it points, and how it reads scalars."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xamc.compiler.spec.document import Document, dotted, from_mapping, parse, read_text
from xamc.compiler.spec.errors import SpecErrors
from xamc.errors import InputError, XamcError

FILE = Path("build.yaml")


def errors_of(text: str) -> list[XamcError]:
    """Errors of a text, whether fatal or collected."""
    try:
        return parse(text, FILE).errors
    except SpecErrors as error:
        return list(error.errors)


def place(error: XamcError) -> tuple[int, int]:
    """Line and column of an error's first location."""
    return error.locations[0].line, error.locations[0].column


@pytest.mark.parametrize(
    ("text", "code", "line", "column"),
    [
        ("a: 1\nb: !!python/object:os.system x\n", "E1005", 2, 4),
        ("a: !x [1]\n", "E1005", 1, 4),
        ("a: ! x\n", "E1005", 1, 4),
        ("!!map {a: 1}\n", "E1005", 1, 1),
        ("base: &b {x: 1}\nc:\n  <<: *b\n", "E1005", 3, 3),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", "E1006", 4, 3),
        ("a: 1\n---\nb: 2\n", "E1009", 2, 1),
        ("a: [1\nb: 2\n", "E1004", 2, 2),
        ("a:\n\t- 1\n", "E1004", 2, 1),
        ("a: *nowhere\n", "E1004", 1, 4),
        ("a: b: c\n", "E1004", 1, 5),
        ("? [1, 2]\n: 3\n", "E1011", 1, 3),
        ("a: 18446744073709551616\n", "E1012", 1, 4),
        ('a: "x\\0y"\n', "E1012", 1, 4),
        ('a: "\\ud800"\n', "E1012", 1, 4),
        ("a: 1\nb: \x07\n", "E1002", 2, 4),
    ],
)
def test_refuses_and_points(text: str, code: str, line: int, column: int) -> None:
    [error] = errors_of(text)
    assert (error.code, *place(error)) == (code, line, column)
    assert error.fix
    assert isinstance(error, InputError)


def test_duplicate_key_shows_both_places() -> None:
    [error] = errors_of("a:\n  dtype: fp16\n  dtype: int8\n")
    assert [(at.line, at.length, at.note) for at in error.locations] == [(3, 5, "again"), (2, 5, "first")]
    assert "a.dtype" in error.message


def test_several_refusals_at_once() -> None:
    assert [error.code for error in errors_of("a: !x 1\nb: 2\nb: 3\nc: !y 4\n")] == ["E1005", "E1006", "E1005"]


def test_alias_bomb() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert [error.code for error in errors_of("\n".join(lines))] == ["E1007"]


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "a: &a [*a, *a]"])
def test_recursive_alias(text: str) -> None:
    assert errors_of(text)[0].code in ("E1007", "E1008")


def test_too_many_values() -> None:
    [error] = errors_of("a: [" + "1, " * 30_000 + "1]")
    assert error.code == "E1007"
    assert error.locations[0].line == 1


def test_modest_aliases_are_read() -> None:
    document = parse("a: &a [1, 2]\nb: *a\n", FILE)
    assert document.values == {"a": [1, 2], "b": [1, 2]}
    assert not document.errors


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_depth(opening: str) -> None:
    deep = opening * 5000
    assert [error.code for error in errors_of(deep)] == ["E1008"]


def test_depth_of_32_is_read() -> None:
    assert not errors_of("[" * 32 + "]" * 32)
    assert [error.code for error in errors_of("[" * 33 + "1" + "]" * 33)] == ["E1008"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("yes", "yes"),
        ("true", True),
        ("False", False),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("010", "010"),
        ("0o10", 8),
        ("0x1F", 31),
        ("-7", -7),
        ("+7", 7),
        ("1e-5", 1e-5),
        (".5", 0.5),
        ("4.40", 4.4),
        ("-.inf", -math.inf),
        ("null", None),
        ("~", None),
        ("", None),
        ("'4'", "4"),
        ('"null"', "null"),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_scalars_are_yaml_1_2(text: str, value: object) -> None:
    document = parse(f"a: {text}\n", FILE)
    assert document.values == {"a": value}
    assert type(document.values["a"]) is type(value)


def test_raw_text_of_plain_scalars() -> None:
    document = parse("a: 4.40\nb: '4.40'\n", FILE)
    assert document.raw(("a",)) == "4.40"
    assert document.raw(("b",)) is None


def test_locations_of_values_and_keys() -> None:
    document = parse("a:\n  b: [10, 200]  # c\n", FILE)
    [value] = document.at(("a", "b", 1))
    [key] = document.at(("a", "b"), key=True)
    assert (value.line, value.column, value.length) == (2, 11, 3)
    assert (key.line, key.column, key.length) == (2, 3, 1)
    [parent] = document.at(("a", "missing"))
    assert (parent.line, parent.column) == (1, 1)


def test_bom_and_windows_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "b.yaml"
    file.write_bytes("\ufeffa: 1\r\nb: !x 2\r\n".encode())
    document = parse(read_text(file), file)
    assert document.values["a"] == 1
    assert place(document.errors[0]) == (2, 4)


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"a: \xff\n", "E1002"), ("a: 1".encode("utf-16"), "E1002"), (b"a: 1 #" + b"x" * (1 << 20), "E1003")],
)
def test_files_that_are_no_text(tmp_path: Path, data: bytes, code: str) -> None:
    file = tmp_path / "b.yaml"
    file.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_text(file)
    assert caught.value.code == code


def test_unreadable_paths(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.yaml", Path("a\0b")):
        with pytest.raises(InputError) as caught:
            read_text(path)
        assert caught.value.code == "E1001"


def test_python_data() -> None:
    document = from_mapping({"a": (1, 2), "b": Path("/x"), "c": 2**70, "d": object(), "e": "\0"})
    assert document.values == {"a": [1, 2], "b": "/x", "c": None, "d": None, "e": None}
    assert [error.code for error in document.errors] == ["E1012"] * 3
    itself: dict[str, object] = {}
    itself["a"] = itself
    for bad, code in ((itself, "E1008"), ({1: 2}, "E1011"), ({"a": {"\ud800": 1}}, "E1011")):
        with pytest.raises(SpecErrors) as caught:
            from_mapping(bad)
        assert caught.value.code == code


def test_dotted() -> None:
    assert dotted(("frontend", "shape", "input.1", 0)) == 'frontend.shape."input.1"[0]'


@given(st.text(st.characters(codec="utf-8"), max_size=200) | st.text("ab:- [],{}&*!|>'\"#%\n\t~<?", max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        document = parse(text, FILE)
    except SpecErrors as error:
        assert all(each.code in ("E1002", "E1004", "E1007", "E1008", "E1009") for each in error.errors)
    else:
        assert isinstance(document, Document)
