from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from xamc.artifact import Manifest, check_digests, read_artifact, staging
from xamc.artifact import publish as publish_module
from xamc.artifact.digests import sha256_of
from xamc.artifact.manifest_file import dumps
from xamc.artifact.publish import ArtifactWriter, portable_spec
from xamc.errors import InputError, InternalError, MisuseError

Write = Callable[..., Manifest]


def test_published_artifact_is_whole_and_read_only(tmp_path: Path, write: Write) -> None:
    written = write(tmp_path / "a")
    artifact = read_artifact(tmp_path / "a")
    assert artifact.manifest == written
    check_digests(artifact)
    recorded = {file.path: file.sha256 for file in written.files}
    assert recorded["code/model.so"] == hashlib.sha256(b"a" * 1000).hexdigest()
    assert sorted(recorded) == ["code/model.so", "tokenizer/tokenizer.json", "weights.bin"]
    assert json.loads((tmp_path / "a/report.json").read_text()) == {"seconds": 1.5}
    assert not os.access(tmp_path / "a/weights.bin", os.W_OK) or os.getuid() == 0
    assert (tmp_path / "a/weights.bin").stat().st_mode & 0o222 == 0


def test_same_inputs_give_the_same_bytes_in_any_folder(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "a")
    write(tmp_path / "deep" / "er" / "b")
    first, second = (tmp_path / "a/manifest.json").read_bytes(), (tmp_path / "deep/er/b/manifest.json").read_bytes()
    assert first == second
    assert str(tmp_path).encode() not in first


def test_error_while_building_leaves_nothing(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(RuntimeError), ArtifactWriter(tmp_path / "a") as writer:
        writer.add_bytes("code/model.so", b"x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_error_leaves_the_previous_version(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "a")
    with pytest.raises(RuntimeError), ArtifactWriter(tmp_path / "a") as writer:
        writer.add_bytes("code/model.so", b"x")
        raise RuntimeError
    check_digests(read_artifact(tmp_path / "a"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_own_artifact_is_replaced_and_an_empty_folder_too(tmp_path: Path, write: Write) -> None:
    (tmp_path / "a").mkdir()
    write(tmp_path / "a", b"1")
    write(tmp_path / "a", b"2")
    assert (tmp_path / "a/code/model.so").read_bytes() == b"2" * 1000
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_link_to_the_destination_is_followed(tmp_path: Path, write: Write) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "a").symlink_to("real")
    write(tmp_path / "a")
    assert (tmp_path / "a").is_symlink()
    assert read_artifact(tmp_path / "real").manifest.name == "tiny"


@pytest.mark.parametrize("kind", ["foreign folder", "other manifest", "file", "own with notes"])
def test_anything_else_is_never_replaced(tmp_path: Path, write: Write, kind: str) -> None:
    target = tmp_path / "a"
    if kind == "file":
        target.write_text("mine")
    elif kind == "own with notes":
        write(target)
        (target / "notes.txt").write_text("mine")
    else:
        target.mkdir()
        (target / ("manifest.json" if kind == "other manifest" else "thesis.tex")).write_text('{"mine": 1}')
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="E1501"):
        write(target)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_folder_that_appears_while_building_is_not_replaced(tmp_path: Path, manifest: Manifest) -> None:
    with ArtifactWriter(tmp_path / "a") as writer:
        writer.add_bytes("code/model.so", b"x")
        writer.add_bytes("weights.bin", b"x")
        (tmp_path / "a").mkdir()
        (tmp_path / "a/thesis.tex").write_text("mine")
        with pytest.raises(InputError, match="E1501"):
            writer.publish(manifest, {})
    assert (tmp_path / "a/thesis.tex").read_text() == "mine"


def test_manifest_naming_a_missing_file_is_our_bug(tmp_path: Path, manifest: Manifest) -> None:
    with ArtifactWriter(tmp_path / "a") as writer, pytest.raises(InternalError, match="E1509"):
        writer.publish(manifest, {})
    assert list(tmp_path.iterdir()) == []


def test_files_are_linked_not_copied(tmp_path: Path, manifest: Manifest) -> None:
    source = tmp_path / "cached.bin"
    source.write_bytes(b"w" * 100)
    with ArtifactWriter(tmp_path / "a") as writer:
        writer.add_file("weights.bin", source)
        writer.add_bytes("code/model.so", b"x")
        writer.publish(manifest, {})
        assert writer.copied == []
    assert (tmp_path / "a/weights.bin").samefile(source)


def test_across_file_systems_files_are_copied_and_named(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    source = tmp_path / "cached.bin"
    source.write_bytes(b"w" * 100)
    monkeypatch.setattr(publish_module.os, "link", refuse)
    with ArtifactWriter(tmp_path / "a") as writer:
        writer.add_file("weights.bin", source)
        assert writer.copied == ["weights.bin"]
        writer.add_bytes("code/model.so", b"x")
        written = writer.publish(manifest, {})
    assert not (tmp_path / "a/weights.bin").samefile(source)
    assert {f.path: f.sha256 for f in written.files}["weights.bin"] == sha256_of(source)


def test_full_disk_is_an_input_error_and_leaves_nothing(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError) as caught, ArtifactWriter(tmp_path / "a") as writer:
        writer.add_bytes("code/model.so", b"x")
    assert caught.value.code == "E1506"
    assert "model.so" in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_parent_that_is_a_file_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="E1507"):
        ArtifactWriter(tmp_path / "file" / "a")


PUBLISHER = """
import sys, time
from dataclasses import replace
from pathlib import Path
from xamc.artifact import read_artifact
from xamc.artifact.publish import ArtifactWriter
destination, fill, stop = Path(sys.argv[1]), sys.argv[2].encode(), sys.argv[3]
manifest = replace(read_artifact(destination.with_name("model")).manifest, files=())
while True:
    with ArtifactWriter(destination) as writer:
        writer.add_bytes("code/model.so", fill * 1000)
        writer.add_bytes("weights.bin", fill * manifest.weights.nbytes)
        writer.add_bytes("tokenizer/tokenizer.json", fill)
        if stop == "before":
            print("ready", flush=True)
            time.sleep(60)
        writer.publish(manifest, {})
    print("round", flush=True)
"""


def _publisher(destination: Path, fill: str, stop: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, str(destination), fill, stop], stdout=subprocess.PIPE, text=True
    )


def test_killed_before_publishing_leaves_the_old_version_and_is_swept(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "model")
    write(tmp_path / "a", b"1")
    with _publisher(tmp_path / "a", "2", "before") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        (leftover,) = tmp_path.glob(".xamc-a-*")
        write(tmp_path / "a", b"3")
        assert leftover.exists(), "a living process's folder must not be swept"
        process.kill()
    check_digests(read_artifact(tmp_path / "a"))
    assert (tmp_path / "a/code/model.so").read_bytes() == b"3" * 1000
    write(tmp_path / "a", b"4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "model"]


def test_kill_at_any_moment_leaves_one_whole_version(tmp_path: Path, write: Write) -> None:
    """Two processes publish to one place over and over and are killed at varying moments."""
    write(tmp_path / "model")
    write(tmp_path / "a", b"0")
    for attempt in range(4):
        with _publisher(tmp_path / "a", "1") as first, _publisher(tmp_path / "a", "2") as second:
            assert first.stdout is not None and second.stdout is not None
            assert first.stdout.readline() == "round\n"
            assert second.stdout.readline() == "round\n"
            for _ in range(20):
                assert (tmp_path / "a").is_dir(), "it must never be absent"
            time.sleep(0.003 * attempt)
            first.kill()
            second.kill()
        artifact = read_artifact(tmp_path / "a")
        check_digests(artifact)
        assert len(set((tmp_path / "a/code/model.so").read_bytes())) == 1
    write(tmp_path / "a", b"9")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "model"]


def test_without_an_exchange_call_two_renames_do_it(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OldLibc:
        def renameat2(self, *_: object) -> int:
            staging.ctypes.set_errno(errno.ENOSYS)
            return -1

    monkeypatch.setattr(staging.ctypes, "CDLL", lambda *_, **__: OldLibc())
    write(tmp_path / "a", b"1")
    write(tmp_path / "a", b"2")
    assert (tmp_path / "a/code/model.so").read_bytes() == b"2" * 1000
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    # Killed between the two renames: the version set aside comes back.
    (tmp_path / "a").rename(tmp_path / ".xamc-a-1-0badcafe-old")
    staging.StagingFolder(tmp_path / "a").discard()
    check_digests(read_artifact(tmp_path / "a"))


def test_portable_spec_drops_folders_but_not_packages() -> None:
    spec = {
        "name": "m",
        "frontend": {"checkpoint": "/home/me/models/smollm2", "dtype": "fp16"},
        "workspace": {"path": Path("/srv/out")},
    }
    assert portable_spec(spec) == {
        "name": "m",
        "frontend": {"checkpoint": "smollm2", "dtype": "fp16"},
        "workspace": {"path": "out"},
    }
    assert spec["workspace"] == {"path": Path("/srv/out")}
    assert (
        portable_spec({"frontend": {"checkpoint": "package:a/b.gguf"}})["frontend"]["checkpoint"] == "package:a/b.gguf"
    )


def test_manifest_of_the_published_folder_is_the_canonical_text(tmp_path: Path, write: Write) -> None:
    written = write(tmp_path / "a")
    assert (tmp_path / "a/manifest.json").read_text() == dumps(written)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert read_artifact(tmp_path / "b").manifest == replace(written)


def test_with_a_source_date_the_whole_folder_is_the_same(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")

    def report(seconds: float, state: str, path: str) -> dict[str, object]:
        made = {"key": path, "parts": {"tool torch": "2.13.0", "input weights": path}, "outputs": {"weights.bin": "0"}}
        stage = {"name": "export", "seconds": seconds, "state": state, "peak_bytes": int(seconds), "detail": "2 layers"}
        return {"stages": [stage], "codegen_seconds": {"lower": seconds}, "warnings": [path], "made": {"weights": made}}

    for name, seconds, state in (("a", 1.0, "ok"), ("b", 2.0, "cached")):
        with ArtifactWriter(tmp_path / name) as writer:
            for path in ("code/model.so", "weights.bin", "tokenizer/tokenizer.json"):
                writer.add_bytes(path, b"x" * manifest.weights.nbytes)  # type: ignore[union-attr]
            writer.publish(manifest, report(seconds, state, name))
    first, second = (
        {p.relative_to(tmp_path / n): (p.read_bytes() if p.is_file() else b"", p.stat().st_mtime) for p in found}
        for n in ("a", "b")
        for found in [[tmp_path / n, *(tmp_path / n).rglob("*")]]
    )
    assert first == second
    assert {date for _, date in first.values()} == {1700000000.0}
    kept = json.loads((tmp_path / "a/report.json").read_text())
    assert kept["stages"] == [{"name": "export", "detail": "2 layers"}]
    assert kept["made"]["weights"]["parts"] == {"tool torch": "2.13.0"}


@pytest.mark.parametrize("text", ["", "today", "-1", "1.5", "9" * 40, "１７"])
def test_a_source_date_that_is_no_number(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    with pytest.raises(MisuseError, match="E1525"):
        ArtifactWriter(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
