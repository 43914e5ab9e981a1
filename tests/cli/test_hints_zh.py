"""Hints in Chinese: for whom, for which codes, and where they stand."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from xamc.cli.hints_zh import HINTS, hint, is_chinese
from xamc.cli.render import render
from xamc.errors import InputError
from xamc.errors.explain import catalogue


@pytest.mark.parametrize(
    ("environment", "chinese"),
    [
        ({"LANG": "zh_CN.UTF-8"}, True),
        ({"LANG": "zh_TW"}, True),
        ({"LANG": "zh"}, True),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, True),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, False),
        ({"LANG": "zu_ZA.UTF-8"}, False),
        ({"LC_ALL": "", "LANG": "zh_CN.UTF-8"}, True),
        ({}, False),
    ],
)
def test_the_locale_decides(environment: dict[str, str], chinese: bool) -> None:
    assert is_chinese(environment) is chinese


def test_every_hint_is_of_a_code_and_every_code_has_one() -> None:
    assert set(HINTS) <= set(catalogue())
    assert all(hint(code) for code in catalogue())
    assert all(any("\u4e00" <= character <= "\u9fff" for character in text) for text in HINTS.values())


def test_the_hint_stands_below_the_english_text(monkeypatch: pytest.MonkeyPatch) -> None:
    error = InputError("E1504", "x is no artifact", fix="give the folder")
    for name in ("LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "en_US.UTF-8")
    english = render(error).plain
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert render(error).plain == f"{english}\n提示：{HINTS['E1504']}"


@pytest.mark.parametrize("lang", ["zh_CN.UTF-8", "zh_CN.GB2312"])
def test_a_command_prints_it_whatever_the_machine_has_of_that_locale(lang: str) -> None:
    """The locale need not be installed, and an encoding that can't hold the text is no reason to crash."""
    code = "import sys; from xamc.cli.main import run; sys.exit(run(['verify', '/nowhere']))"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LC_")} | {"LANG": lang}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=environment)
    text = done.stderr.decode("utf-8", "replace")
    assert done.returncode == 1 and "E1504" in text and "提示：" in text, text
