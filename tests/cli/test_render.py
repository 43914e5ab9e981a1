"""Tests of the renderer: what an error looks like, to people, to terminals and to scripts."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from xamc.cli.render import MAX_LINE, print_problems, render
from xamc.compiler.spec import SpecErrors, SpecWarning, load_spec
from xamc.compiler.spec.problems import problems_of, to_json
from xamc.errors import InputError, Location, ToolchainError

FILE = Path("build.yaml")


def error(text: str, *places: Location, message: str = "wrong", fix: str = "") -> str:
    """An error at places of a text, rendered plain."""
    return render(InputError("E1022", message, fix, places), {FILE: text}).plain


def test_the_disagreement_of_the_design(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    FILE.write_text(
        "# a comment\nname: m\nfrontend:\n  checkpoint: /m\n  type: huggingface\n  model_kwargs:\n    tp: 1\n"
        "  quantize:\n    type: w8a16_gptq\n\nbackend:\n  dtype: fp16\n"
    )
    with pytest.raises(SpecErrors) as caught:
        load_spec(FILE)
    assert render(caught.value).plain == (
        "build.yaml:9:11  E1042  quantize.type and backend.dtype disagree\n"
        "   9 |     type: w8a16_gptq\n"
        "     |           ^^^^^^^^^^ stores weights as int8\n"
        "  12 |   dtype: fp16\n"
        "     |          ^^^^ asks for fp16 weights\n"
        "fix: set backend.dtype: int8, or remove frontend.quantize      (xamc explain E1042)"
    )


def test_the_text_that_was_read_is_shown_even_when_the_file_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "b.yaml"
    file.write_text("runtime: 5\nfrontend: {checkpoint: x}\n")
    with pytest.raises(SpecErrors) as caught:
        load_spec(file)
    file.unlink()
    assert "1 | runtime: 5\n" in render(caught.value).plain


def test_arguments_are_shown() -> None:
    with pytest.raises(SpecErrors) as caught:
        load_spec({"frontend": {"checkpoint": "/m"}}, ["name=x", "backend.typ=tvm_cpu"])
    assert render(caught.value).plain == (
        "--set:2:1  E1061  --set: unknown key backend.typ\n"
        "   2 | backend.typ=tvm_cpu\n"
        "     | ^^^^^^^^^^^\n"
        "fix: did you mean backend.type?      (xamc explain E1061)"
    )


def test_several_errors_are_counted() -> None:
    with pytest.raises(SpecErrors) as caught:
        load_spec({"runtime": 5, "name": "/"})
    plain = render(caught.value).plain
    assert plain.count("(xamc explain ") == 3
    assert plain.endswith("\n\n3 errors")


def test_warnings_that_explain_an_error_stand_before_it() -> None:
    spec = {"frontend": {"checkpoint": "/m", "quantise": {"device": "cpu"}}, "backend": {"dtype": "int4"}}
    with pytest.raises(SpecErrors) as caught:
        load_spec(spec)
    warning, error = render(caught.value).plain.split("\n\n")
    assert "did you mean frontend.quantize?" in warning
    assert error.startswith("E1041")
    data = to_json(caught.value)
    assert (len(data["errors"]), len(data["warnings"]), data["exit_code"]) == (1, 1, 1)


def test_without_a_place() -> None:
    problem = ToolchainError("E1401", "the linker failed", "install gcc", details=("ld: cannot find -lm", "exit 1"))
    assert render(problem).plain == (
        "E1401  the linker failed\n  ld: cannot find -lm\n  exit 1\nfix: install gcc      (xamc explain E1401)"
    )
    assert render(ToolchainError("E1401", "failed")).plain == "E1401  failed\n(xamc explain E1401)"


def test_warnings_say_so() -> None:
    [plain] = [render(warning).plain for warning in load_spec({"frontend": {"checkpoint": "/m"}, "x": 1}).warnings]
    assert plain.startswith("E1021  warning: unknown key x is ignored")


def test_notes_on_one_line_get_rows_of_their_own() -> None:
    plain = error("a: [1, 22, 3]", Location(FILE, 1, 5, 1, "one"), Location(FILE, 1, 8, 2, "two"))
    assert plain.splitlines()[1:4] == [
        "   1 | a: [1, 22, 3]",
        "     |     ^ one",
        "     |        ^^ two",
    ]
    plain = error("a: [1, 22, 3]", Location(FILE, 1, 5, 1), Location(FILE, 1, 8, 2, "two"))
    assert plain.splitlines()[2] == "     |     ^  ^^ two"


def test_wide_characters_and_tabs_keep_the_carets_in_place() -> None:
    plain = error("名字:\tx", Location(FILE, 1, 5, 1))
    assert plain.splitlines()[1:3] == ["   1 | 名字: x", "     |       ^"]


def test_long_lines_are_cropped_around_the_place() -> None:
    line = "a: [" + "1, " * 5000 + "bad]"
    column = line.index("bad") + 1
    shown, carets = error(line, Location(FILE, 1, column, 3)).splitlines()[1:3]
    assert len(shown) < MAX_LINE + 20
    assert shown[carets.index("^") : carets.rindex("^") + 1] == "bad"


def test_line_numbers_of_any_length_line_up() -> None:
    plain = error("x\n" * 123456, Location(FILE, 123456, 1), Location(FILE, 2, 1))
    assert plain.splitlines()[1:5] == ["  123456 | x", "         | ^", "       2 | x", "         | ^"]


def test_several_files_are_named(tmp_path: Path) -> None:
    other = tmp_path / "config.json"
    other.write_text('{"a": 1}')
    problem = InputError("E1101", "disagree", "", (Location(FILE, 1, 1, 1, "here"), Location(other, 1, 7, 1, "there")))
    plain = render(problem, {FILE: "a: 2"}).plain
    assert f' at {other}:1:7\n   1 | {{"a": 1}}\n     |       ^ there' in plain


def test_a_place_whose_text_is_gone_is_still_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone.yaml"
    plain = render(InputError("E1101", "wrong", "", (Location(gone, 3, 4, 1, "this"),))).plain
    assert plain.splitlines()[0] == f"{gone}:3:4  E1101  wrong"
    assert plain.splitlines()[1].strip() == f"at {gone}:3:4: this"
    assert "E1101" in render(InputError("E1101", "wrong", "", (Location(tmp_path, 1, 1),))).plain


def test_control_characters_never_reach_the_terminal() -> None:
    plain = error("a: \x1b[2J\u202ex", Location(FILE, 1, 4, 3, "\x1b]0;x\x07"), message="\x1b[31mred\nline", fix="\x9b")
    assert not set(plain) & {"\x1b", "\x07", "\x9b", "\u202e"}
    assert "red line" in plain


def test_colours_on_a_terminal_only() -> None:
    problem = InputError("E1022", "wrong [bold]", "fix :smile:")
    plain = io.StringIO()
    print_problems(problem, file=plain)
    assert plain.getvalue() == "E1022  wrong [bold]\nfix: fix :smile:      (xamc explain E1022)\n"
    colour = Console(force_terminal=True, color_system="standard", file=io.StringIO())
    with colour.capture() as captured:
        colour.print(render(problem))
    assert "\x1b[" in captured.get()


def test_long_messages_are_not_wrapped() -> None:
    out = io.StringIO()
    print_problems(InputError("E1022", "word " * 100), file=out)
    assert len(out.getvalue().splitlines()) == 2


def test_json() -> None:
    with pytest.raises(SpecErrors) as caught:
        load_spec({"frontend": {"checkpoint": "/m"}}, ["runtime.max_batch=0", "verify.final=on"])
    data = json.loads(json.dumps(to_json(caught.value)))
    assert data["exit_code"] == 1
    assert [each["code"] for each in data["errors"]] == ["E1025", "E1026"]
    assert data["errors"][0]["locations"] == [{"path": "--set", "line": 1, "column": 19, "length": 1, "note": ""}]
    warning = SpecWarning("E1021", "unknown")
    assert to_json([warning]) == {
        "errors": [],
        "warnings": [{"code": "E1021", "message": "unknown", "fix": "", "locations": []}],
        "exit_code": 0,
    }
    assert to_json(ToolchainError("E1401", "x"))["exit_code"] == 4


def test_groups_and_foreign_exceptions() -> None:
    one, two = InputError("E1101", "one"), InputError("E1102", "two")
    assert problems_of(ExceptionGroup("both", [one, ExceptionGroup("inner", [two])])) == (one, two)
    with pytest.raises(TypeError):
        problems_of(ValueError())


@given(
    st.text(max_size=60),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 80), st.integers(0, 80), st.text(max_size=5)), max_size=4),
)
def test_any_text_and_any_place_render(text: str, places: list[tuple[int, int, int, str]]) -> None:
    locations = tuple(Location(FILE, line, column, length, note) for line, column, length, note in places)
    assert "E1022" in error(text, *locations, message=text)
