"""Virtual environments of the peers, from the pinned requirements beside this file; made again when those change."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from tools.bench.engines import ROOT, BenchError
from tools.bootstrap import Environment, install_torch
from xamc.jobs.processor import cpu_features

FOLDER = ROOT / "build/bench/peers"
REQUIREMENTS = Path(__file__).parent
# Packages that an environment's dependencies bring along and that break it; each with its reason.
_UNWANTED = {"openvino_convert": ("torchvision",)}  # optimum's, built for another torch: importing it fails
# llama.cpp is compiled for this CPU; wheels of other machines, or pip's cache of them, would not do.
_BUILD = {"llama_cpp": {"CMAKE_ARGS": "-DGGML_NATIVE=ON", "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1)}}
_PIP = {"llama_cpp": ("--no-cache-dir", "--no-binary", "llama-cpp-python")}


def environment(name: str, say: Callable[[str], None]) -> Path:
    """The interpreter of the environment `name`, which is made if it is absent or its requirements have changed.

    Args:
        name: the stem of a requirements file.
        say: shows progress.

    Raises:
        BenchError: pip failed.
    """
    folder, requirements = FOLDER / name, REQUIREMENTS / f"{name}.txt"
    python, stamp = folder / "bin/python", folder / ".installed"
    wanted = _digest(name, requirements)
    if stamp.exists() and stamp.read_text(encoding="ascii") == wanted:
        return python
    say(f"installing {name} into {folder.relative_to(ROOT)}" + (", compiling it" if name in _BUILD else ""))
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    log = FOLDER / f"{name}.log"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    if any(line.startswith("torch==") for line in requirements.read_text(encoding="utf-8").splitlines()):
        # never a CUDA build, wherever the CPU build is to be had
        install_torch(Environment(folder))
    with log.open("wb") as output:
        _run([*pip, "install", *_PIP.get(name, ()), "-r", str(requirements)], output, log, _BUILD.get(name, {}))
        for package in _UNWANTED.get(name, ()):
            _run([*pip, "uninstall", "-y", package], output, log, {})
    stamp.write_text(wanted, encoding="ascii")
    return python


def versions(python: Path) -> dict[str, str]:
    """Version of every package of an environment, by name in lower case with hyphens."""
    folders = [str(path) for path in (python.parent.parent / "lib").glob("python*/site-packages")]
    found = importlib.metadata.distributions(path=folders) if folders else importlib.metadata.distributions()
    return {str(item.metadata["Name"]).lower().replace("_", "-"): item.version for item in found}


def _digest(name: str, requirements: Path) -> str:
    """Of what an environment depends on: requirements, interpreter, and the CPU if something is compiled for it."""
    parts = [requirements.read_text(encoding="utf-8"), platform.python_version()]
    if name in _BUILD:
        parts += sorted(cpu_features())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _run(command: list[str], output: object, log: Path, extra: dict[str, str]) -> None:
    run = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **extra}, check=False)  # type: ignore[call-overload]
    if run.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
        raise BenchError(f"`{' '.join(command[2:])}` failed; {log} ends\n{tail}")


if __name__ == "__main__":
    for each in sys.argv[1:]:
        print(environment(each, print))
