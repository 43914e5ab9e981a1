from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from xamc.artifact.golden import FACTS_FILE, GOLDEN_FILE, Golden, Sample, golden_files, read_golden
from xamc.errors import InputError

GENERATOR = np.random.default_rng(1)
WHY = "the CPU that compiled it lacks avx9000"


def sample(length: int, reference: bool = True) -> Sample:
    logits = [GENERATOR.normal(size=(length, 11)).astype(np.float32) for _ in range(2)]
    return Sample(np.arange(length, dtype=np.int64) + 3, logits[0], logits[1] if reference else None)


def write(folder: Path, golden: Golden) -> Path:
    folder.mkdir()
    for name, content in golden_files(golden).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("run", [True, False])
def test_read_is_what_was_written(tmp_path: Path, reference: bool, run: bool) -> None:
    samples = tuple(sample(length, reference) for length in (6, 1, 4))
    golden = (
        Golden(samples, cpu_level="x86-64-v3")
        if run
        else Golden(tuple(replace(one, logits=None) for one in samples), WHY)
    )
    found = read_golden(write(tmp_path / "golden", golden))
    assert (found.not_run, found.cpu_level) == (golden.not_run, golden.cpu_level) and len(found.samples) == 3
    for mine, theirs in zip(found.samples, golden.samples, strict=True):
        for name, array in vars(theirs).items():
            np.testing.assert_array_equal(getattr(mine, name), array)
    assert golden_files(found) == golden_files(golden)


def test_a_person_can_read_where_the_numbers_come_from(tmp_path: Path) -> None:
    folder = write(tmp_path / "golden", Golden((replace(sample(2), logits=None),), WHY))
    facts = json.loads((folder / FACTS_FILE).read_text())
    assert facts["not_run"] == WHY and "logits" not in facts and "transformers" in facts["reference"]


@pytest.mark.parametrize(
    "damage",
    ["cut", "no file", "no token ids", "no prompt", "shapes", "empty", "no logits", "facts", "no facts", "facts lie"],
)
def test_damaged_files(tmp_path: Path, damage: str) -> None:
    folder = write(tmp_path / "golden", Golden((sample(3), sample(2))))
    path, facts = folder / GOLDEN_FILE, folder / FACTS_FILE
    tensors = load_file(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "no file":
        path.unlink()
    elif damage == "no facts":
        facts.unlink()
    elif damage in ("facts", "no prompt", "facts lie"):
        facts.write_text({"facts": "[", "no prompt": '{"prompts": 0}', "facts lie": '{"prompts": 3}'}[damage])
    else:
        if damage == "shapes":
            tensors["1.token_ids"] = tensors["1.token_ids"][:1]
        elif damage == "empty":
            tensors = {name: array[:0] for name, array in tensors.items()}
        else:
            del tensors["1.token_ids" if damage == "no token ids" else "1.logits"]
        save_file(tensors, path)
    with pytest.raises(InputError, match="E1510"):
        read_golden(folder)
