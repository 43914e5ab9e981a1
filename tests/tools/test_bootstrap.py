"""The bootstrap never lets a CUDA build of PyTorch in, and says what to do when no other can be had."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "tools/bootstrap.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bootstrap"] = module
    spec.loader.exec_module(module)
    return module


def _report(*packages: tuple[str, str]) -> str:
    return json.dumps({"install": [{"metadata": {"name": name, "version": version}} for name, version in packages]})


CPU = _report(("torch", "2.13.0+cpu"), ("sympy", "1.14.0"))
CUDA = _report(("torch", "2.13.0"), ("nvidia-cublas-cu13", "13.1"), ("triton", "3.7"))


class FakeEnvironment:
    """Answers dry runs from `answers`: for the configured index, then for PyTorch's."""

    def __init__(self, answers: list[str | None]) -> None:
        self.answers = answers
        self.installed_with: list[str] = []

    def pip(self, arguments: Sequence[str], capture: bool = False) -> subprocess.CompletedProcess[str]:
        assert "--dry-run" in arguments
        answer = self.answers.pop(0)
        return subprocess.CompletedProcess([], 0 if answer else 1, answer or "", "ERROR: no route to host")

    def install(self, what: str, arguments: Sequence[str]) -> None:
        self.installed_with = list(arguments)


def test_cpu_build_of_the_configured_index_is_taken(bootstrap: Any) -> None:
    environment = FakeEnvironment([CPU])
    bootstrap.install_torch(environment)
    assert environment.installed_with == ["torch==2.13.0"]


@pytest.mark.parametrize("first", [CUDA, _report(("torch", "2.13.0+cu130")), None])
def test_otherwise_pytorchs_cpu_index_is_asked(bootstrap: Any, first: str | None) -> None:
    environment = FakeEnvironment([first, CPU])
    bootstrap.install_torch(environment)
    assert bootstrap.CPU_INDEX in environment.installed_with


@pytest.mark.parametrize("second", [CUDA, None])
def test_without_any_cpu_build_it_stops_with_the_remedy(bootstrap: Any, second: str | None) -> None:
    environment = FakeEnvironment([CUDA, second])
    with pytest.raises(SystemExit) as caught:
        bootstrap.install_torch(environment)
    assert "nvidia-cublas-cu13 13.1" in str(caught.value) and "PIP_FIND_LINKS" in str(caught.value)
    assert environment.installed_with == []


def test_cuda_packages_are_told_by_name(bootstrap: Any) -> None:
    names = ("nvidia-cudnn-cu13", "triton", "cuda-bindings", "pytorch_triton", "NVIDIA-NCCL-cu13")
    assert all(bootstrap.is_cuda_package(name) for name in names)
    assert not any(bootstrap.is_cuda_package(name) for name in ("torch", "tritonclient", "numpy"))


def test_every_requirement_has_a_pin_that_satisfies_it(bootstrap: Any) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for texts in project["optional-dependencies"].values() for text in texts]
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if text := line.split("#")[0].strip():
            pin = Requirement(text)
            pins[pin.name.lower().replace("_", "-")] = str(pin.specifier).removeprefix("==")
    for text in [*project["dependencies"], *extras, bootstrap.MODEL_PACKAGE]:
        requirement = Requirement(text)
        name = requirement.name.lower().replace("_", "-")
        assert name in pins, f"{name} has no pin"
        assert requirement.specifier.contains(pins[name], prereleases=True), text


def test_installed_packages_are_the_pinned_ones() -> None:
    """What the tests run with is what the constraints file says; a drift would make CI test something else."""
    import importlib.metadata

    drifted = []
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if text := line.split("#")[0].strip():
            name, version = text.split("==")
            try:
                found = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
            if found.partition("+")[0] != version:
                drifted.append(f"{name} {found}, pinned {version}")
    assert drifted == []
