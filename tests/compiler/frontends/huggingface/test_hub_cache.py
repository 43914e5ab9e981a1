"""Hub ids are found in the local cache as the hub's own library lays it out, and the network is never asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import try_to_load_from_cache

from tests.checkpoints import write_tiny
from xamc.compiler.frontends import open_checkpoint
from xamc.compiler.frontends.checkpoint import resolve_checkpoint
from xamc.compiler.frontends.huggingface.hub_cache import find_in_hub_cache, hub_cache_folder, snapshot
from xamc.compiler.spec import load_spec
from xamc.errors import InputError

COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one model, its files as links to blobs."""
    repository = tmp_path / "hub" / "models--acme--tiny-1.5"
    model = write_tiny(tmp_path / "model", "llama")
    (repository / "blobs").mkdir(parents=True)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    for number, file in enumerate(sorted(model.iterdir())):
        file.rename(repository / "blobs" / str(number))
        (repository / "snapshots" / COMMIT / file.name).symlink_to(f"../../blobs/{number}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return repository


def test_the_layout_is_the_librarys(cache: Path) -> None:
    """What huggingface_hub finds of a repository in this cache is what is found here."""
    found = try_to_load_from_cache("acme/tiny-1.5", "config.json", cache_dir=cache.parent)
    assert found == str(resolve_checkpoint("acme/tiny-1.5") / "config.json")


def test_an_id_opens_its_snapshot(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("acme/tiny-1.5", "huggingface").path == cache / "snapshots" / COMMIT
    for place in (cache, cache / "snapshots"):
        assert resolve_checkpoint(place) == resolve_checkpoint(cache / "snapshots" / COMMIT)
    # a folder of that name beside the spec is what a path means
    (tmp_path / "acme" / "tiny-1.5").mkdir(parents=True)
    assert resolve_checkpoint("acme/tiny-1.5") == tmp_path / "acme" / "tiny-1.5"


def test_a_spec_takes_an_id_and_a_file_of_a_repository(cache: Path, tmp_path: Path) -> None:
    spec = tmp_path / "specs" / "build.yaml"
    spec.parent.mkdir()
    spec.write_text("name: x\nfrontend: {checkpoint: acme/tiny-1.5}\n")
    assert load_spec(spec).spec.frontend.checkpoint == str(cache)
    (cache / "snapshots" / COMMIT / "m.gguf").write_bytes(b"")
    frontend = load_spec({"frontend": {"checkpoint": "acme/tiny-1.5/m.gguf"}}).spec.frontend
    assert (frontend.checkpoint, frontend.type) == (str(cache / "snapshots" / COMMIT / "m.gguf"), "gguf")
    assert load_spec({"frontend": {"checkpoint": "acme/tiny-1.5"}}).spec.name == "tiny-1"
    missing = load_spec({"frontend": {"checkpoint": "acme/other"}}).spec.frontend.checkpoint
    assert missing == str(Path.cwd() / "acme/other")


def test_what_is_not_there_says_where_was_looked(cache: Path) -> None:
    with pytest.raises(InputError, match="E1101") as caught:
        resolve_checkpoint("acme/other")
    assert str(cache.parent) in caught.value.fix and "nothing is downloaded" in caught.value.fix
    for text in (
        "../models--acme--tiny-1.5",
        "acme/../acme/tiny-1.5",
        "acme--tiny-1.5",
        "",
        "a/b/c/d",
        "acme/tiny-1.5/x",
    ):
        assert find_in_hub_cache(text) is None, text


def test_snapshots(cache: Path) -> None:
    """refs/main, or the only one; else the choice is left to the user."""
    (cache / "snapshots" / OTHER).mkdir()
    assert snapshot(cache).name == COMMIT
    (cache / "refs" / "main").write_text(OTHER + "\n")
    assert snapshot(cache).name == OTHER
    (cache / "refs" / "main").write_text("../../..")
    with pytest.raises(InputError, match="E1101") as caught:
        snapshot(cache)
    assert len(caught.value.details) == 2
    (cache / "refs" / "main").unlink()
    (cache / "snapshots" / OTHER).rmdir()
    assert snapshot(cache).name == COMMIT


def test_the_folder_is_the_librarys(tmp_path: Path) -> None:
    """Every spelling of the environment, as huggingface_hub reads it in a process of its own."""
    program = (
        "import os; from huggingface_hub.constants import HF_HUB_CACHE; "
        "from xamc.compiler.frontends.huggingface.hub_cache import hub_cache_folder; "
        "assert os.path.abspath(HF_HUB_CACHE) == str(hub_cache_folder()), (HF_HUB_CACHE, hub_cache_folder())"
    )
    names = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
    plain = {key: value for key, value in os.environ.items() if key not in names}
    for settings in (
        {},
        {"HF_HOME": str(tmp_path / "home")},
        {"HF_HOME": "~/hf", "HF_HUB_CACHE": "$HOME/hub"},
        {"HUGGINGFACE_HUB_CACHE": str(tmp_path / "old")},
        {"XDG_CACHE_HOME": str(tmp_path / "xdg")},
    ):
        subprocess.run([sys.executable, "-c", program], check=True, env=plain | settings)
    assert hub_cache_folder().is_absolute()
