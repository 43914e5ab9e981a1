"""The hand-off's folder: whole or not there, and nothing of the user's is lost."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from xamc.compiler.handoff.folder import MARKER, HandoffWriter
from xamc.errors import InputError


def _write(destination: Path, text: str) -> None:
    with HandoffWriter(destination) as writer:
        (writer.folder / "sub").mkdir()
        (writer.folder / "sub" / "file").write_text(text)
        writer.publish({"name": "m"})


def test_published_with_digests_and_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for text in ("one", "two"):
        _write(out, text)
        marker = json.loads((out / MARKER).read_text())
        assert marker["name"] == "m"
        assert marker["files"] == {"sub/file": {"nbytes": 3, "sha256": hashlib.sha256(text.encode()).hexdigest()}}
        assert (out / "sub" / "file").read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), HandoffWriter(tmp_path / "out") as writer:
        (writer.folder / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["file", "foreign", "unmarked", "damaged"])
def test_foreign_folders_stay(what: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if what == "file":
        out.write_text("mine")
    else:
        _write(out, "one")
        if what == "foreign":
            (out / "notes.txt").write_text("mine")
        elif what == "unmarked":
            (out / MARKER).unlink()
        else:
            (out / MARKER).write_text("[]")
    with pytest.raises(InputError, match="E1453"):
        _write(out, "two")
    assert out.read_text() == "mine" if what == "file" else (out / "sub" / "file").read_text() == "one"


def test_an_empty_folder_is_taken_and_a_full_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    _write(tmp_path / "out", "one")
    with HandoffWriter(tmp_path / "out") as writer, pytest.raises(InputError, match="E1454"):
        writer.require_room(10**18)
