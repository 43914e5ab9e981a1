from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xamc.compiler.artifact import Artifact, Manifest
from xamc.compiler.artifact.golden import GOLDEN_FILE, GOLDEN_FOLDER, Golden, check_golden, compare_golden, read_golden
from xamc.compiler.errors import InputError, ToolchainError


@pytest.fixture
def golden() -> Golden:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, 4, 11)).astype(np.float32)
    return Golden(np.arange(8, dtype=np.int64).reshape(2, 4), np.array([4, 2]), logits)


@pytest.fixture
def artifact(tmp_path: Path, manifest: Manifest, golden: Golden) -> Artifact:
    (tmp_path / GOLDEN_FOLDER).mkdir()
    (tmp_path / GOLDEN_FILE).write_bytes(golden.to_bytes())
    return Artifact(tmp_path, replace(manifest, golden=GOLDEN_FOLDER))


def test_round_trip_and_equal_bytes(artifact: Artifact, golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    read = read_golden(artifact.file(GOLDEN_FILE))
    for name in ("token_ids", "lengths", "logits"):
        np.testing.assert_array_equal(getattr(read, name), getattr(golden, name))
    first = golden.to_bytes()
    monkeypatch.setattr("time.localtime", lambda *_: (2031, 2, 3, 4, 5, 6, 0, 0, 0))
    assert golden.to_bytes() == first


def _computed(golden: Golden, noise: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:  # type: ignore[type-arg]
    def compute(token_ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        np.testing.assert_array_equal(token_ids, golden.token_ids)
        np.testing.assert_array_equal(lengths, golden.lengths)
        logits = golden.logits.copy()
        logits[0, 3, 5] += noise
        return logits

    return compute


def test_within_and_beyond_the_tolerance(artifact: Artifact, golden: Golden) -> None:
    largest = float(np.abs(golden.logits).max())
    result = check_golden(artifact, _computed(golden, 0.9e-4 * largest), 1e-4)
    assert result is not None and 0.5e-4 < result.deviation < 1e-4 and (result.same_top1, result.positions) == (6, 6)
    for noise in (1.5e-4 * largest, np.nan, np.inf):
        with pytest.raises(ToolchainError, match="E1511"):
            check_golden(artifact, _computed(golden, noise), 1e-4)


def test_padding_is_not_compared(golden: Golden) -> None:
    logits = golden.logits.copy()
    logits[1, 2:] = 99
    assert compare_golden(golden, logits, 0).deviation == 0
    logits[1, 1, 0] += 1
    assert compare_golden(golden, logits, 0).deviation > 0


def test_artifact_without_golden_logits(artifact: Artifact, golden: Golden) -> None:
    bare = replace(artifact, manifest=replace(artifact.manifest, golden=None))
    assert check_golden(bare, _computed(golden, 0), 1e-4) is None


@pytest.mark.parametrize("damage", ["cut", "missing array", "pickle", "shapes"])
def test_damaged_archives(artifact: Artifact, golden: Golden, damage: str) -> None:
    path = artifact.file(GOLDEN_FILE)
    if damage == "cut":
        path.write_bytes(golden.to_bytes()[:-30])
    elif damage == "missing array":
        np.savez(path, token_ids=golden.token_ids)
    elif damage == "pickle":
        np.savez(path, token_ids=np.array([{}]), lengths=golden.lengths, logits=golden.logits, allow_pickle=True)
    else:
        path.write_bytes(replace(golden, lengths=np.array([1, 2, 3])).to_bytes())
    with pytest.raises(InputError, match="E1510"):
        read_golden(path)
