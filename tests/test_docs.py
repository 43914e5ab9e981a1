"""The documentation's commands exist, the cheap ones run, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from xamc.cli import main as cli
from xamc.compiler.spec import load_spec

ROOT = Path(__file__).parents[1]
NAMED = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = [*(ROOT / name for name in NAMED), *sorted((ROOT / "docs").glob("**/*.md"))]
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


@pytest.mark.parametrize(("page", "command"), [key.split(": ", 1) for key in COMMANDS], ids=COMMANDS.keys())
def test_command(
    page: str, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program, *arguments = shlex.split(command, comments=True)
    monkeypatch.chdir(ROOT)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert [word for word in arguments if "=" not in word and word not in targets] == []
        return
    # the READMEs are read before anything is on the PATH
    expected = "xamc" if page.startswith("docs/") else ".venv/bin/xamc"
    assert program == expected, f"only make and xamc are run by this test, not {program}"
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


def test_the_readmes_run_what_is_there_after_make_compile() -> None:
    """Their first artifact is that of the spec which `make compile` takes."""
    spec = re.search(r"^SPEC +\?= (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert spec is not None
    loaded = load_spec(ROOT / spec[1])
    folder = f"{loaded.spec.workspace.path.name}/{loaded.spec.name}"
    for page in ("README.md", "README.zh-CN.md"):
        commands = [command for place, command in _commands() if place.startswith(f"{page}: ")]
        ran = [word for command in commands for word in command.split() if word.startswith("vacc_deploy/")]
        assert ran and set(ran) == {folder}


def test_make_help_shows_every_target_in_columns() -> None:
    targets = re.findall(r"^([A-Za-z0-9_-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for columns in ("80", "100"):
        done = subprocess.run(
            ["make", "-s", "help"],
            cwd=ROOT,
            env={**os.environ, "COLUMNS": columns},
            capture_output=True,
            text=True,
            check=True,
        )
        lines = done.stdout.splitlines()
        assert [line.split()[1] for line in lines if line.startswith("  make ")] == targets
        assert max(map(len, lines)) <= int(columns)
        begin = 8 + max(map(len, targets))
        assert {line[begin - 1] for line in lines} == {" "} and " " not in {line[begin] for line in lines}


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
