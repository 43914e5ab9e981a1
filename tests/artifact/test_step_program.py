"""The program of one token as a file: what is read is what was written, and nothing that points elsewhere is."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xamc.artifact.records import RecordError
from xamc.artifact.step_program import Instruction, StepProgram, dumps_step, load_step
from xamc.errors import InputError

PROGRAM = StepProgram(
    workspace=256,
    width=5,
    kernels=("embedding", "attention"),
    regions=(("weights", "workspace"), ("workspace", "pools", "pools", "workspace")),
    instructions=(Instruction(0, (3, 0)), Instruction(1, (0, 1, 2, 128))),
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "decode.json"
    file.write_text(dumps_step(PROGRAM))
    assert load_step(file) == PROGRAM
    assert "\n  [1, 0, 1, 2, 128]\n" in file.read_text()


def test_numbers_become_offsets() -> None:
    assert PROGRAM.table([0, 0, 0, 640], [0, 64, 4096]) == [[0, 640, 0, 0, 0], [1, 0, 64, 4096, 128]]


def test_rows_lie_as_many_times_as_far_apart() -> None:
    assert PROGRAM.table([0, 0, 0, 640], [0, 64, 4096], 5) == [[0, 640, 0, 0, 0], [1, 0, 64, 4096, 640]]


def test_memory_of_rows_covers_whole_tiles() -> None:
    program = replace(PROGRAM, rows=32, prepared=100)
    assert program.memory(1) == (256, 0)
    assert program.memory(5) == (5 * 256, 8 * 100)
    assert program.memory(32) == (32 * 256, 32 * 100)


def test_a_program_of_before_there_were_rows_has_one(tmp_path: Path) -> None:
    content = json.loads(dumps_step(PROGRAM))
    del content["rows"], content["prepared"]
    (tmp_path / "decode.json").write_text(json.dumps(content))
    assert load_step(tmp_path / "decode.json").rows == 1


@pytest.mark.parametrize(("weights", "pools"), [([0, 64], [0, 64, 128]), ([0, 0, 0, 640], [0])])
def test_a_buffer_that_does_not_exist_is_refused(weights: list[int], pools: list[int]) -> None:
    with pytest.raises(RecordError, match="has no number"):
        PROGRAM.table(weights, pools)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("instructions", [[2, 3, 0]]),
        ("instructions", [[-1, 3, 0]]),
        ("instructions", [[0, 3]]),
        ("instructions", [[0, -3, 0]]),
        ("instructions", [[0, 3, 256]]),
        ("instructions", [[0, 3, 4]]),
        ("instructions", [[0, 3, "0"]]),
        ("instructions", [[]]),
        ("instructions", 3),
        ("regions", [["weights"]]),
        ("regions", [["weights", "elsewhere"], []]),
        ("width", 2),
        ("rows", 0),
        ("prepared", -1),
        ("kernels", None),
    ],
)
def test_a_damaged_program_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    content = json.loads(dumps_step(PROGRAM))
    (tmp_path / "decode.json").write_text(json.dumps({**content, key: value}))
    with pytest.raises(InputError) as caught:
        load_step(tmp_path / "decode.json")
    assert caught.value.code == "E1502"


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_no_program_at_all_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "decode.json"
    file.write_text(text)
    with pytest.raises(InputError):
        load_step(file)
    with pytest.raises(InputError):
        load_step(tmp_path / "missing.json")
