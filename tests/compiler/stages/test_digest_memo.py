"""The memory of checkpoint digests beside the stage cache: damage, a full disk and two writers cost time only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xamc.compiler.stages.publish import _keep, _memo


@pytest.mark.parametrize("content", [None, "", "{", "[1]", '{"a": "b"'])
def test_a_damaged_memory_is_an_empty_one(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "digests.json"
    if content is not None:
        file.write_text(content)
    assert _memo(file) == {}
    _keep(file, {"model|1|2": "ab"})
    assert json.loads(file.read_text()) == {"model|1|2": "ab"}
    assert [path.name for path in tmp_path.iterdir()] == ["digests.json"]


def test_what_another_compile_added_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "digests.json"
    _keep(file, {"one": "1"})
    _keep(file, {"two": "2"})
    assert _memo(file) == {"one": "1", "two": "2"}


def test_a_place_that_can_not_be_written_is_no_error(tmp_path: Path) -> None:
    _keep(tmp_path / "nowhere/digests.json", {"one": "1"})
    (tmp_path / "digests.tmp").mkdir()
    _keep(tmp_path / "digests.json", {"one": "1"})
    assert not (tmp_path / "digests.json").exists()
