"""gears.json is read as it was written, and refused when it is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xamc.artifact.gears import FORMAT, GearEntry, Gears, GraphEntry, gears_text, read_gears
from xamc.errors import InputError

INPUTS = {"batch_index": (-1,), "tokens": (-1, 1), "zactivate_len": (-1,)}
GEARS = Gears(
    FORMAT,
    1,
    rows=4,
    capacity=64,
    graphs=(
        GraphEntry("prefill.onnx", "prefill", (GearEntry(1, 16),), {"tokens": (1, 16)}),
        GraphEntry("decode.onnx", "decode", (GearEntry(1, 32), GearEntry(4, 64)), INPUTS),
    ),
)


def test_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "gears.json"
    path.write_text(gears_text(GEARS))
    assert read_gears(path) == GEARS


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (FORMAT, "other"),
        ('"version": 1', '"version": 2'),
        ('"kind": "decode"', '"kind": "prefill"'),
        ('"rows": 4', '"rows": "4"'),
        ('"capacity"', '"capacities"'),
        ("{", ""),
    ],
)
def test_anything_else_is_refused(old: str, new: str, tmp_path: Path) -> None:
    path = tmp_path / "gears.json"
    text = gears_text(GEARS)
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=r"E1502.*gears.json"):
        read_gears(path)


def test_a_graph_without_gears_is_refused(tmp_path: Path) -> None:
    value = json.loads(gears_text(GEARS))
    value["graphs"][0]["gears"] = []
    (tmp_path / "gears.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match="E1502"):
        read_gears(tmp_path / "gears.json")
