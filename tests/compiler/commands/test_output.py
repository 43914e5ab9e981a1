"""What reaches the terminal of names that came out of a user's files."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from rich.text import Text

from xamc.compiler.commands.generate import _show
from xamc.compiler.commands.output import message_console, print_json, print_table, result_console

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
