"""What teams build on: the README in Chinese, the Dockerfile, CI samples, the wheel folder, JUnit XML."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tools import wheelhouse
from xamc.cli import main as cli

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def _text(path: Path) -> str:
    """The page without what only the English one has: the race that `make bench` writes, and its language bar."""
    text = re.sub(r"<!-- race: written.*?race: end -->\n", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return "\n".join(
        line for line in text.splitlines() if "README.zh-CN.md)" not in line and "](README.md)" not in line
    )


def _sections(path: Path) -> list[tuple[int, str]]:
    """Per heading its level and the text below it, without code."""
    prose = FENCE.sub("", _text(path))
    parts = re.split(r"^(#+) .*$", prose, flags=re.MULTILINE)
    return [(len(level), body) for level, body in zip(parts[1::2], parts[2::2])]


def _numbers(text: str) -> list[str]:
    return sorted(re.findall(r"(?<![\w.-])\d+(?:\.\d+)?(?!\w)", re.sub(r"\]\([^)]*\)|`[^`]*`", "", text)))


def test_the_chinese_readme_has_the_same_sections() -> None:
    assert [level for level, _ in _sections(CHINESE)] == [level for level, _ in _sections(ENGLISH)]


def test_the_chinese_readme_has_the_same_code() -> None:
    """Comments are translated."""
    blocks = [
        [(kind, re.sub(r"(?<=\s)# .*", "#", code)) for kind, code in FENCE.findall(_text(page))]
        for page in (ENGLISH, CHINESE)
    ]
    assert blocks[0] == blocks[1] and len(blocks[0]) >= 4


@pytest.mark.parametrize("number", range(len(_sections(ENGLISH))))
def test_the_chinese_readme_names_the_same_things(number: int) -> None:
    """Links, code in the text, and numbers of every section."""
    ours, theirs = _sections(ENGLISH)[number][1], _sections(CHINESE)[number][1]
    for pattern in (r"\]\(([^)]*)\)", r"(?<!`)`([^`\n]+)`(?!`)"):
        assert sorted(set(re.findall(pattern, theirs))) == sorted(set(re.findall(pattern, ours)))
    assert _numbers(theirs) == _numbers(ours)


def _stages() -> dict[str, list[tuple[str, str]]]:
    """Stage → its instructions; a small reader of what Dockerfile uses."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    stages: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        word, _, rest = line.strip().partition(" ")
        assert word in {"ARG", "FROM", "ENV", "RUN", "COPY", "WORKDIR", "VOLUME", "USER", "ENTRYPOINT", "CMD"}, line
        if word == "FROM":
            _, name = rest.split(" AS ")
            current = stages.setdefault(name, [])
        current.append((word, rest))
    return stages


def test_the_stages_of_the_dockerfile() -> None:
    stages = _stages()
    assert list(stages) == ["base", "compiler", "runtime-packages", "runtime"], "the last one is the default"
    for name, instructions in stages.items():
        for word, rest in instructions:
            if word == "RUN":
                subprocess.run(["bash", "-n", "-c", rest], check=True)
            elif word in ("ENTRYPOINT", "CMD"):
                assert isinstance(json.loads(rest), list)
            elif word == "COPY":
                source = re.match(r"--from=(\S+)", rest)
                if source is not None:
                    assert source.group(1) in list(stages)[: list(stages).index(name)]
                else:
                    assert all((ROOT / file).exists() for file in rest.split()[:-1]), rest


def test_the_runtime_image_has_no_compiler_and_no_root() -> None:
    stages = _stages()
    runtime = stages["runtime"] + stages["runtime-packages"]
    commands = " ".join(rest for word, rest in runtime if word == "RUN")
    assert "gcc" not in commands and "compiler" not in commands and "apt-get" not in commands
    words = [word for word, _ in stages["runtime"]]
    assert ("USER", "10001") in stages["runtime"] and words.index("USER") < words.index("ENTRYPOINT")
    assert cli.run([*json.loads(dict(stages["runtime"])["CMD"]), "--help"]) == 0


def test_what_docker_does_not_need_is_left_out() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "vacc_deploy"} <= set(ignored) and "wheelhouse" not in ignored


@pytest.mark.parametrize("name", ["github.yml", "gitlab.yml"])
def test_ci_samples_run_commands_that_exist(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    sample = yaml.safe_load((ROOT / "docs" / "ci" / name).read_text())
    if name == "github.yml":
        steps = sample["jobs"]["compile"]["steps"]
        lines = [line for step in steps for line in step.get("run", "").splitlines()]
        assert all("uses" in step or "run" in step for step in steps)
    else:
        lines = [*sample["model"]["before_script"], *sample["model"]["script"]]
        assert sample["model"]["artifacts"]["reports"]["junit"] == "reports/golden.xml"
    commands = [shlex.split(line)[1:] for line in lines if line.startswith(".venv/bin/xamc")]
    assert [command[0] for command in commands] == ["compile", "verify", "golden"]
    for command in commands:
        flags = [word for word in command if word.startswith("--")]
        depth = 2 if command[0] == "golden" else 1
        assert cli.run([*command[:depth], "--help"]) == 0
        shown = capsys.readouterr().out
        assert all(flag in shown for flag in flags), flags


class Pip:
    """Stands for an environment; every call of pip puts an empty wheel into the folder."""

    def __init__(self, wheel: str, torch: str = "2.13.0+cpu") -> None:
        self.calls: list[list[str]] = []
        self.wheel, self.torch = wheel, torch

    def pip(self, arguments: list[str], capture: bool = False) -> subprocess.CompletedProcess[str]:
        self.calls.append(arguments)
        if arguments[0] == "wheel":
            (Path(arguments[arguments.index("--wheel-dir") + 1]) / self.wheel).touch()
        return subprocess.CompletedProcess(arguments, 0, f"Name: torch\nVersion: {self.torch}\n", "")


def _fill(monkeypatch: pytest.MonkeyPatch, pip: Pip, *arguments: str) -> list[list[str]]:
    monkeypatch.setattr(wheelhouse, "Environment", lambda folder: pip)
    assert wheelhouse.main([".venv", *arguments]) == 0
    return [call for call in pip.calls if call[0] == "wheel"]


def test_the_wheel_folder_has_what_venv_installs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = _fill(monkeypatch, Pip("xamc-0.1.0-py3-none-any.whl"), str(tmp_path / "wheels"))
    assert [call[-1].split("[")[-1] for call in calls][1:3] == [wheelhouse.pinned("torch"), "compiler,dev]"]
    assert wheelhouse.CPU_INDEX in calls[1] and all(wheelhouse.CPU_INDEX not in call for call in calls[2:])
    assert all(str(wheelhouse.CONSTRAINTS) in call for call in calls)
    plain = _fill(monkeypatch, Pip("a-1-py3-none-any.whl", "2.13.0"), str(tmp_path / "own"))
    assert wheelhouse.CPU_INDEX not in plain[1], "the configured index has the CPU build"


def test_the_wheel_folder_of_the_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = _fill(monkeypatch, Pip("a-1-py3-none-any.whl"), str(tmp_path), "runtime")
    assert len(calls) == 2 and calls[1][-1].endswith("[runtime]")


def test_a_cuda_build_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="CUDA build got into"):
        _fill(monkeypatch, Pip("nvidia_cublas_cu12-12-py3-none-any.whl"), str(tmp_path))


def test_make_test_writes_junit() -> None:
    done = subprocess.run(
        ["make", "-n", "-o", ".venv/.installed", "test", "JUNIT=r.xml"], cwd=ROOT, capture_output=True, text=True
    )
    assert "--junitxml=r.xml" in done.stdout, done.stderr
