"""What of an artifact is checked at every load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from xamc.artifact import loading, read_artifact
from xamc.artifact.digests import sha256_of
from xamc.artifact.loading import check_load
from xamc.artifact.manifest import MANIFEST, FileDigest, Generation, Manifest
from xamc.artifact.manifest_file import dumps
from xamc.errors import InputError

TOKENIZER = {
    "tokenizer.json": '{"a": 1}',
    "tokenizer_config.json": "{}",
    "chat_template.jinja": "{{ messages }}",
    "additional_chat_templates/tool_use.jinja": "{{ tools }}",
}


@pytest.fixture
def folder(tmp_path: Path, manifest: Manifest) -> Path:
    """Files of every kind under the digests that the manifest has of them."""
    contents: dict[str, str] = {f"tokenizer/{name}": text for name, text in TOKENIZER.items()}
    contents |= {"weights.bin": "w" * 100, "golden/golden.json": "{}"}
    contents |= dict.fromkeys(manifest.needed_files() - {"weights.bin"}, "code")
    for path, text in contents.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    files = tuple(FileDigest(path, len(text), sha256_of(tmp_path / path)) for path, text in sorted(contents.items()))
    named = {"tool_use": "tokenizer/additional_chat_templates/tool_use.jinja"}
    generation = Generation(1, (2,), "tokenizer/chat_template.jinja", named)
    changed = replace(manifest, files=files, generation=generation, tokenizer="tokenizer", golden="golden")
    (tmp_path / MANIFEST).write_text(dumps(changed))
    return tmp_path


def spoil(path: Path) -> None:
    """Another character, the same size."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [*(f"tokenizer/{name}" for name in TOKENIZER), "weights.bin"])
def test_a_changed_file_that_decides_an_answer_is_refused(folder: Path, name: str) -> None:
    check_load(read_artifact(folder))
    spoil(folder / name)
    with pytest.raises(InputError, match=f"E1505.*{name}"):
        check_load(read_artifact(folder))


def test_golden_logits_decide_nothing(folder: Path) -> None:
    spoil(folder / "golden/golden.json")
    check_load(read_artifact(folder))


def test_large_weights_are_the_users_choice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "SMALL_WEIGHTS", 99)
    spoil(folder / "weights.bin")
    check_load(read_artifact(folder))
    with pytest.raises(InputError, match=r"E1505.*weights\.bin"):
        check_load(read_artifact(folder), verify_weights=True)
    spoil(folder / "tokenizer/tokenizer.json")
    with pytest.raises(InputError, match=r"E1505.*tokenizer\.json"):
        check_load(read_artifact(folder))


def test_a_file_put_beside_the_published_ones_is_refused(folder: Path, manifest: Manifest) -> None:
    read = read_artifact(folder).manifest
    config = "tokenizer/tokenizer_config.json"
    files = tuple(file for file in read.files if file.path != config)
    (folder / MANIFEST).write_text(dumps(replace(read, files=files)))
    with pytest.raises(InputError, match=f"E1505.*{config}") as caught:
        check_load(read_artifact(folder))
    assert "not in the manifest" in str(caught.value.details)
    (folder / config).unlink()
    check_load(read_artifact(folder))
