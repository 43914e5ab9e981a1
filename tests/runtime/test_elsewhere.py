"""An artifact copied to another machine: read-only, another user, no network, nothing but the base packages."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534
RUN = """
import json, os, sys
from xamc import runtime
from xamc.artifact import check_digests, read_artifact

def answer(path):
    check_digests(read_artifact(path))
    return runtime.load(path, 1).generate("the quick", 4, ignore_eos=True).token_ids

first = answer(sys.argv[1])  # as the owner, and so that what is imported lazily is imported
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
seen = []

def watch(event, arguments):
    if event.startswith("socket.") or event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        seen.append([event, str(arguments[0])])

sys.addaudithook(watch)
print(json.dumps({"first": first, "second": answer(sys.argv[2]), "user": os.getuid(), "seen": seen}))
""".replace("NOBODY", str(NOBODY))


@pytest.fixture
def copy(make_artifact: Any) -> Iterator[tuple[Path, Path]]:
    """An artifact, and a read-only copy where any user may look."""
    folder = Path(tempfile.mkdtemp(prefix="xamc-elsewhere-"))
    folder.chmod(0o755)
    original = make_artifact()
    shutil.copytree(original, folder / "artifact")
    for path in (folder / "artifact").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (folder / "artifact").chmod(0o555)
    yield original, folder / "artifact"
    subprocess.run(["chmod", "-R", "u+w", folder], check=True)
    shutil.rmtree(folder)


def _alone() -> list[str]:
    """The prefix of a command that gets a network namespace without any interface, where that is allowed."""
    for prefix in (["unshare", "-n"], ["unshare", "-rn"]):
        try:
            if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
                return prefix
        except OSError:
            break
    return []


def test_a_copy_runs_for_another_user_without_network_and_writes_nothing(copy: tuple[Path, Path]) -> None:
    command = [*_alone(), sys.executable, "-c", RUN, *map(str, copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    result = json.loads(done.stdout)
    assert result["first"] == result["second"] and len(result["second"]) == 4
    assert result["seen"] == []
    assert os.getuid() != 0 or result["user"] == NOBODY


def _closure(names: list[str]) -> set[str]:
    """Distributions that an installation of `names` brings, by what is installed here."""
    found: set[str] = set()
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name in found:
            continue
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform or Python
        found.add(name)
        names += [re.split(r"[^A-Za-z0-9._-]", line)[0] for line in requirements if "extra ==" not in line]
    return found


def test_the_base_installation_brings_no_compiler(repository: Path) -> None:
    """`xamc[runtime]` adds nothing to the base, whose packages need neither torch nor a C compiler."""
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["runtime"] == []
    base = _closure([re.split(r"[^A-Za-z0-9._-]", line)[0] for line in project["dependencies"]])
    assert {"apache-tvm", "apache-tvm-ffi", "numpy", "tokenizers"} <= base
    heavy = {"torch", "transformers", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "gguf", "sentencepiece", "scipy"}
    assert not base & heavy
    assert heavy - {"scipy"} <= _closure(["torch", "transformers", "onnx-ir", "onnxruntime", "onnxscript", "gguf"]) | {
        "sentencepiece"
    }, "the closure sees what is installed"
