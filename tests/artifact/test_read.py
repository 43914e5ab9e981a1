from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from xamc.artifact import Manifest, check_digests, read_artifact, verify_digests
from xamc.errors import InputError

Write = Callable[..., Manifest]


def test_every_damaged_file_is_named(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "a")
    artifact = read_artifact(tmp_path / "a")
    assert verify_digests(artifact) == ()
    code, tokenizer = tmp_path / "a/code/model.so", tmp_path / "a/tokenizer/tokenizer.json"
    code.chmod(0o644)
    code.write_bytes(b"a" * 999 + b"b")
    tokenizer.unlink()
    damages = verify_digests(artifact)
    assert {damage.path: damage.problem for damage in damages} == {
        "code/model.so": "its content changed (SHA-256 differs)",
        "tokenizer/tokenizer.json": "missing",
    }
    with pytest.raises(InputError) as caught:
        check_digests(artifact)
    assert caught.value.code == "E1505"
    assert "code/model.so" in caught.value.message and "tokenizer/tokenizer.json" in caught.value.message


def test_cut_off_weights_are_refused_at_load(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "a")
    weights = tmp_path / "a/weights.bin"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InputError) as caught:
        read_artifact(tmp_path / "a")
    assert caught.value.code == "E1505"
    assert "weights.bin" in caught.value.message
    assert "1663 bytes, expected 1664" in caught.value.details[0]


def test_progress_sees_every_file(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "a")
    seen: list[str] = []
    verify_digests(read_artifact(tmp_path / "a"), lambda file: seen.append(file.path))
    assert seen == ["code/model.so", "tokenizer/tokenizer.json", "weights.bin"]


@pytest.mark.parametrize("what", ["nothing", "file", "empty"])
def test_no_artifact(tmp_path: Path, what: str) -> None:
    target = tmp_path / "a"
    if what == "file":
        target.write_text("")
    elif what == "empty":
        target.mkdir()
    with pytest.raises(InputError) as caught:
        read_artifact(target)
    assert caught.value.code == "E1504"


def test_binary_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="E1502"):
        read_artifact(tmp_path)
