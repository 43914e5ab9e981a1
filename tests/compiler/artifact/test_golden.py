from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from xamc.compiler.artifact import Artifact, Manifest
from xamc.compiler.artifact.golden import GOLDEN_FILE, check_golden, read_golden
from xamc.compiler.errors import InputError, ToolchainError

IDS = np.arange(6, dtype=np.int64)
LOGITS = np.random.default_rng(1).normal(size=(6, 11)).astype(np.float32)
LARGEST = float(np.abs(LOGITS).max())


@pytest.fixture
def artifact(tmp_path: Path, manifest: Manifest) -> Artifact:
    (tmp_path / "golden").mkdir()
    save_file({"token_ids": IDS, "logits": LOGITS}, tmp_path / "golden" / GOLDEN_FILE)
    return Artifact(tmp_path, replace(manifest, golden="golden"))


def _computed(noise: float) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
    def compute(token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        np.testing.assert_array_equal(token_ids, IDS[None])
        logits = LOGITS[None].copy()
        logits[0, 3, 5] += noise
        return logits

    return compute


def test_within_the_tolerance(artifact: Artifact) -> None:
    result = check_golden(artifact, _computed(0.9e-4 * LARGEST), 1e-4)
    assert result is not None
    assert 0.5e-4 < result.deviation < 1e-4
    assert (result.same_top1, result.positions) == (6, 6)


@pytest.mark.parametrize("noise", [1.5e-4 * LARGEST, np.nan, np.inf])
def test_beyond_the_tolerance(artifact: Artifact, noise: float) -> None:
    with pytest.raises(ToolchainError, match="E1511"):
        check_golden(artifact, _computed(noise), 1e-4)


def test_artifact_without_golden_logits(artifact: Artifact) -> None:
    bare = replace(artifact, manifest=replace(artifact.manifest, golden=None))
    assert check_golden(bare, _computed(0), 1e-4) is None


@pytest.mark.parametrize("damage", ["cut", "missing tensor", "shapes"])
def test_damaged_files(artifact: Artifact, damage: str) -> None:
    path = artifact.path / "golden" / GOLDEN_FILE
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "missing tensor":
        save_file({"token_ids": IDS}, path)
    else:
        save_file({"token_ids": IDS[:3], "logits": LOGITS}, path)
    with pytest.raises(InputError, match="E1510"):
        read_golden(path)
