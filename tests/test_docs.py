"""The documentation's commands exist, the cheap ones run, and its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from xamc.compiler import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
CHEAP = {"targets", "schema", "explain", "cache", "--help", "doctor"}
# specs whose weights ship inside a Python package
SHIPPED_SPECS = ("build_configs/smollm2/", "build_configs/ascend/smollm2")


def _commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in re.findall(r"^```console\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            for line in block.splitlines():
                if line.startswith("$ "):
                    yield f"{page.relative_to(ROOT)}: {line[2:]}", line[2:]


COMMANDS = dict(_commands())


def test_pages_have_commands() -> None:
    assert len(COMMANDS) > 15


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_command(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program, *arguments = shlex.split(command, comments=True)
    monkeypatch.chdir(ROOT)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert [word for word in arguments if "=" not in word and word not in targets] == []
        return
    assert program == "xamc", f"only make and xamc are run by this test, not {program}"
    monkeypatch.setenv("XAMC_CACHE", str(tmp_path))
    if arguments[0] in CHEAP or (arguments[0] == "plan" and arguments[1].startswith(SHIPPED_SPECS)):
        assert cli.run(arguments) == 0, capsys.readouterr().err
    else:
        _parse(arguments)


def _parse(arguments: list[str]) -> None:
    """Let typer parse a command line without running it; unknown options and missing arguments raise."""
    group: Any = typer.main.get_command(cli.app)
    context = group.make_context("xamc", list(arguments))
    name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(name, rest, parent=context)


def test_a_wrong_option_would_be_noticed() -> None:
    with pytest.raises(typer.TyperException, match="no-such-option"):
        _parse(["compile", "build.yaml", "--no-such-option"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http:", "https:", "#"))]
    assert [link for link in links if not (page.parent / link.partition("#")[0]).exists()] == []


def test_specs_named_in_the_pages_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"build_configs/[\w/.-]+\.yaml", page.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{page.name} names {name}"
