"""What reaches the terminal of names that came out of a user's files."""

from __future__ import annotations

import io
import json
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from xamc.cli import main as cli
from xamc.cli.commands.generate import _show
from xamc.cli.commands.output import message_console, print_json, print_line, print_table, result_console
from xamc.cli.commands.target_names import TARGET_NAMES, target_name
from xamc.errors.explain import catalogue, explain
from xamc.targets.registry import CAPS

HOSTILE = "a\x1b]0;title\x07\x1b[2Jb\x9b31m\u202ec"
SHOWN = "a\ufffd]0;title\ufffd\ufffd[2Jb\ufffd31m\ufffdc"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_text_and_tables_hold_nothing_that_a_terminal_acts_on(capsys: pytest.CaptureFixture[str]) -> None:
    result_console().print(HOSTILE, style="bold")
    result_console().print(Text.assemble(("x ", "bold"), HOSTILE))
    print_table(result_console(), ("name", ""), [(HOSTILE, "two\nlines")])
    message_console().print(HOSTILE)
    out, err = capsys.readouterr()
    first, second, _, row, more = out.splitlines()
    without_bell = SHOWN.replace("title\ufffd", "title")  # Rich drops it from a Text
    assert (first, second, err.strip()) == (SHOWN, f"x {without_bell}", SHOWN)
    assert row.split("  ")[0] == SHOWN and more.split() == ["lines"]


def test_json_keeps_every_value(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": f"{HOSTILE}\ud800", "text": "模型 🙂\n"}
    print_json(value)
    out = capsys.readouterr().out
    assert json.loads(out) == value and "模型 🙂" in out and not {"\x1b", "\x07", "\x9b", "\u202e"} & set(out)


@pytest.mark.parametrize("terminal", [True, False])
def test_an_answer_is_cleaned_for_a_terminal_only(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    class Stream:
        generation = "done"

        def __iter__(self) -> Any:
            return iter(("one\n\ttwo ", HOSTILE))

    out = _Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    model: Any = SimpleNamespace(stream=lambda *arguments, **options: Stream())
    assert _show(model, "prompt", None, {}) == "done"  # type: ignore[comparison-overlap]
    assert out.getvalue() == f"one\n\ttwo {SHOWN if terminal else HOSTILE}\n"


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What commands print on a terminal of a width, or into a pipe."""

    def show(columns: int | None, *arguments: str) -> list[str]:
        out = _Terminal() if columns else io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setenv("COLUMNS", str(columns or 80))
        monkeypatch.setenv("TERM", "xterm")
        assert cli.run(arguments) == 0
        return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()

    return show


WORDS = {"tvm_ascend", "quantization", "w8a16_rtn", "w16kv8", "reference", "unoptimized:", "configuration;"}


@pytest.mark.parametrize("columns", [80, 100, None])
def test_targets_are_readable_at_any_width(screen: Any, columns: int | None) -> None:
    lines = screen(columns, "targets")
    words = {word for line in lines for word in line.split()}
    assert words >= WORDS, "no word is cut"
    assert max(map(len, lines)) <= (columns or 100)
    assert {line.split()[0] for line in lines[1:] if line and line[0] != " "} >= {"cpu", "vacc", "ascend", "tvm_cpu"}
    if columns is None or columns == 100:
        assert len(lines) == 2 * (1 + len(CAPS)) + 1, "a row each"


@pytest.mark.parametrize("columns", [80, 100, None])
def test_an_explanation_is_prose_of_that_width(screen: Any, columns: int | None) -> None:
    for code in ("E1042", "E1164", "E1150"):
        lines = screen(columns, "explain", code)
        assert " ".join(" ".join(lines).split()) == " ".join(explain(code).split())
        assert max(map(len, lines)) <= (columns or 100)
        full = [line for line in lines[:-1] if line]
        assert min(map(len, full)) > 0.7 * (columns or 100), "no half-empty lines in between"


def test_tables_in_a_pipe_have_whole_rows_and_nothing_behind_them(screen: Any) -> None:
    lines = screen(None, "explain")
    assert len(lines) == 1 + len(catalogue())
    assert [line for line in lines if line != line.rstrip()] == []
    on_screen = screen(80, "explain")
    assert max(map(len, on_screen)) <= 80 and all(line[:5].strip() or line[:7] == " " * 7 for line in on_screen)


@pytest.mark.parametrize("terminal", ["dumb", "xterm"])
def test_colours_in_a_pipe_do_not_fold_it(screen: Any, terminal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    plain = screen(None, "targets")
    monkeypatch.setenv("TERM", terminal)
    assert plain == screen(None, "targets") and len(plain) == 2 * (1 + len(CAPS)) + 1
    assert len(screen(None, "explain")) == 1 + len(catalogue())


def test_a_long_line_goes_on_below_itself() -> None:
    out = _Terminal()
    print_line(
        Console(file=out, width=30, force_terminal=True, color_system=None),
        "memory   much of it, and some more of it",
        9,
    )
    assert out.getvalue().splitlines() == ["memory   much of it, and some", "         more of it"]
    pipe = io.StringIO()
    print_line(Console(file=pipe, width=30), "memory   " + "word " * 20, 9)
    assert len(pipe.getvalue().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("gpu", "--target takes cpu, vacc,"),
        ("CPU", "did you mean cpu?"),
        ("asend", "did you mean ascend?"),
        ("tvm_gpu", "did you mean tvm_cpu?"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "compile", "export-vamc", "run", "golden check"])
def test_an_unknown_target_lists_what_can_be_typed(
    name: str, fix: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"run": ["-p", "x"], "golden check": ["answers.json"]}.get(command, [])
    assert cli.run([*command.split(), "build.yaml", *options, "--target", name]) == 2
    err = capsys.readouterr().err
    assert "E1071" in err and fix in err and "cpu, vacc, ascend, reference" in err


def test_names_of_targets_are_all_of_them() -> None:
    assert set(TARGET_NAMES.values()) == set(CAPS)
    assert [target_name(name) for name in ("cpu", "tvm_vacc", None)] == ["tvm_cpu", "tvm_vacc", None]
