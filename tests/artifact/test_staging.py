"""Folders that vanish with their process, and those that are removed by the next one when it was killed."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from xamc.artifact.staging import (
    StagingFolder,
    is_still,
    make_folder,
    sweep,
    sweep_locks,
    sweep_temporary,
    temporary_folder,
    write_file,
)
from xamc.errors import InputError

_KILLED = """
import os, signal, sys
from pathlib import Path
from xamc.artifact.staging import StagingFolder, temporary_folder
staging = StagingFolder(Path(sys.argv[1]) / "model")
(staging.folder / "half").write_text("x")
with temporary_folder("codegen") as folder:
    (folder / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def test_what_a_killed_process_left_is_swept(tmp_path: Path, temporary: Path) -> None:
    out = tmp_path / "out"
    subprocess.run([sys.executable, "-c", _KILLED, str(out)], check=False, env={**os.environ, "TMPDIR": str(temporary)})
    (staged,), (folder,) = out.iterdir(), temporary.iterdir()
    assert staged.name.startswith(".xamc-model-") and folder.name.startswith("xamc-codegen-")
    for name in (".xamc-notes", ".xamc-model-1-0123456"):  # not our names
        (out / name).mkdir()
    sweep(out)
    sweep_temporary()
    assert sorted(path.name for path in out.iterdir()) == [".xamc-model-1-0123456", ".xamc-notes"]
    assert list(temporary.iterdir()) == []
    sweep(tmp_path / "nowhere")


def test_what_is_in_use_is_left_alone(tmp_path: Path, temporary: Path) -> None:
    staging = StagingFolder(tmp_path / "out/model")
    with temporary_folder("codegen") as folder:
        sweep(tmp_path / "out")
        sweep_temporary()
        assert staging.folder.is_dir() and folder.is_dir()
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()
    staging.discard()


def test_a_folder_can_be_built_aside_in_a_temporary_one(temporary: Path) -> None:
    """Whoever does locks the parent, for which it would wait for ever if that were the lock of the temporary folder."""
    with temporary_folder("plan") as folder:
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
        staging = StagingFolder(folder / "entry")
        staging.put_in_place()
        assert (folder / "entry").is_dir()
    assert list(temporary.iterdir()) == []


def test_a_version_between_two_renames_is_put_back(tmp_path: Path) -> None:
    (tmp_path / ".xamc-model-1-01234567-old").mkdir()
    (tmp_path / ".xamc-model-1-01234567-old/manifest.json").write_text("{}")
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_full_disk_in_a_temporary_folder_is_an_input_error(temporary: Path) -> None:
    with pytest.raises(InputError, match="E1506") as caught, temporary_folder("proof") as folder:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "twin.onnx"))
    assert "twin.onnx" in caught.value.message and "TMPDIR" in caught.value.fix
    assert list(temporary.iterdir()) == []


def test_locks_that_nobody_holds_are_removed(tmp_path: Path) -> None:
    held = os.open(tmp_path / "held", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    (tmp_path / "free").touch()
    # an own descriptor of the same file does not count as ours
    sweep_locks(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["held"]
    assert is_still(tmp_path / "held", held)
    (tmp_path / "held").unlink()
    assert not is_still(tmp_path / "held", held)
    (tmp_path / "held").touch()
    os.close(held)


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "golden.json"
    write_file(path, lambda place: place.write_text("first"))
    link = tmp_path / "link.json"
    link.symlink_to(path)

    def full(place: Path) -> None:
        place.write_text("ha")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError) as caught:
        write_file(link, full)
    assert caught.value.code == "E1506" and path.read_text() == "first"
    write_file(link, lambda place: place.write_text("second"))
    assert link.is_symlink() and path.read_text() == "second"
    assert os.listdir(path.parent) == ["golden.json"]
    write_file(Path("/dev/null"), lambda place: place.write_text("gone"))


@pytest.mark.parametrize("parts", [("proc", "x"), ("dev", "null", "x"), ("tmp", "x" * 300)])
def test_a_folder_that_can_t_be_made_is_an_input_error(parts: tuple[str, ...]) -> None:
    """The first takes no folders from anyone, which it says as if a parent were missing."""
    with pytest.raises(InputError, match="E1507") as caught:
        make_folder(Path("/", *parts))
    assert "choose a folder you may write to" in str(caught.value.fix)


def test_a_folder_below_a_link_to_itself_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="E1507"):
        make_folder(tmp_path / "loop" / "x")
