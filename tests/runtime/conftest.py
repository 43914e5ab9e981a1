"""Toy artifacts for both targets, built once."""

from __future__ import annotations

import fcntl
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


toy_module = sys.modules.get("toy") or _load("toy")


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    return toy_module


@pytest.fixture(scope="session")
def tokenizer(toy: Any) -> Any:
    return toy.train_tokenizer()


@pytest.fixture(scope="session")
def vocab_size(tokenizer: Any) -> int:
    return int(tokenizer.get_vocab_size())


@pytest.fixture(scope="session")
def toy_code(session_folder: Path, toy: Any, vocab_size: int) -> dict[str, Path]:
    """Made by the worker process of the session that is first."""
    folder = session_folder / "toy_code"
    folder.mkdir(exist_ok=True)
    library, model = folder / "model.so", folder / "model.onnx"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not model.exists():
            # A process of its own, so that the test process never imports TVM, like one that only runs artifacts.
            subprocess.run([sys.executable, HERE / "toy_relax.py", library, str(vocab_size)], check=True, timeout=120)
            toy.write_onnx(model, vocab_size)
    return {"tvm_cpu": library, "reference": model}


MakeArtifact = Callable[..., Path]


@pytest.fixture
def make_artifact(tmp_path: Path, toy: Any, toy_code: dict[str, Path], tokenizer: Any, vocab_size: int) -> MakeArtifact:
    def make(target: str = "tvm_cpu", with_tokenizer: bool = True, **changes: Any) -> Path:
        folder = tmp_path / f"artifact{len(list(tmp_path.iterdir()))}"
        code = toy_code.get(target, toy_code["tvm_cpu"])
        own = changes.pop("tokenizer", tokenizer)
        path: Path = toy.write_artifact(
            folder, target, code, own if with_tokenizer else None, vocab_size=vocab_size, **changes
        )
        return path

    return make


@pytest.fixture(scope="session", params=["tvm_cpu", "reference"])
def toy_path(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    toy: Any,
    toy_code: dict[str, Path],
    tokenizer: Any,
    vocab_size: int,
) -> Path:
    """An artifact of each target; tests that use it run once for each."""
    folder = tmp_path_factory.mktemp("artifacts") / request.param
    path: Path = toy.write_artifact(folder, request.param, toy_code[request.param], tokenizer, vocab_size=vocab_size)
    return path
