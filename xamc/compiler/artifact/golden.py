"""Golden logits: what an artifact answered when it was made, re-checked by `xamc verify` on any machine.

``golden/golden.npz`` holds `token_ids` int64[B, T], `lengths` int64[B] (rows are right-padded) and `logits`
float32[B, T, V], an ordinary NumPy archive without pickles. Its bytes depend on nothing but its content.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xamc.compiler.artifact.read import Artifact
from xamc.compiler.errors import InputError, ToolchainError

GOLDEN_FOLDER = "golden"
GOLDEN_FILE = "golden/golden.npz"

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Golden:
    """Token ids int64[B, T], their lengths int64[B], and logits float32[B, T, V]; padding is not compared."""

    token_ids: I64
    lengths: I64
    logits: F32

    def to_bytes(self) -> bytes:
        """The archive's bytes; the same content gives the same bytes."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for name in ("token_ids", "lengths", "logits"):
                member = io.BytesIO()
                np.lib.format.write_array(member, np.ascontiguousarray(getattr(self, name)), allow_pickle=False)
                # A ZipInfo of one's own has the date 1980-01-01; writestr with a name would take today's.
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
        return buffer.getvalue()


@dataclass(frozen=True)
class GoldenResult:
    """How far the logits of this machine are from the golden ones.

    Attributes:
        deviation: max |actual - golden| / max |golden| over all positions that are not padding.
        tolerance: the bound it must keep.
        same_top1: positions whose likeliest token is the golden one's.
        positions: positions compared.
    """

    deviation: float
    tolerance: float
    same_top1: int
    positions: int


def read_golden(path: Path) -> Golden:
    """Read a golden archive.

    Raises:
        InputError: E1510 it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            golden = Golden(archive["token_ids"], archive["lengths"], archive["logits"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError("E1510", f"{path} can't be read: {error}", fix="compile the model again") from None
    batch, tokens = golden.token_ids.shape if golden.token_ids.ndim == 2 else (0, 0)
    if golden.lengths.shape != (batch,) or golden.logits.shape[:2] != (batch, tokens) or golden.logits.ndim != 3:
        raise InputError("E1510", f"{path}: its arrays do not fit each other", fix="compile the model again")
    return golden


def compare_golden(golden: Golden, logits: F32, tolerance: float) -> GoldenResult:
    """Compare logits float32[B, T, V] with the golden ones."""
    counted = np.arange(golden.token_ids.shape[1])[None, :] < golden.lengths[:, None]
    actual, expected = logits[counted].astype(np.float64), golden.logits[counted].astype(np.float64)
    largest = float(np.abs(expected).max(initial=0.0)) or 1.0
    difference = np.abs(actual - expected).max(initial=0.0)
    deviation = float(difference) / largest if np.isfinite(difference) else float("inf")
    same = int((actual.argmax(-1) == expected.argmax(-1)).sum())
    return GoldenResult(deviation, tolerance, same, int(counted.sum()))


def check_golden(artifact: Artifact, compute: Callable[[I64, I64], F32], tolerance: float) -> GoldenResult | None:
    """Run an artifact on its golden token ids and compare.

    Args:
        artifact: an artifact whose digests are known to be right.
        compute: (token_ids, lengths) → logits float32[B, T, V]; the runtime's `Model.logits`.
        tolerance: bound of the deviation.

    Returns:
        The result, or None when the artifact holds no golden logits.

    Raises:
        InputError: E1510.
        ToolchainError: E1511 the logits are further apart than `tolerance`.
    """
    if artifact.manifest.golden is None:
        return None
    golden = read_golden(artifact.file(GOLDEN_FILE))
    logits: Any = compute(golden.token_ids, golden.lengths)
    result = compare_golden(golden, logits, tolerance)
    if not result.deviation <= tolerance:
        raise ToolchainError(
            "E1511",
            f"{artifact.path}: logits differ from the golden ones by {result.deviation:.2g} (relative), "
            f"allowed are {tolerance:.2g}; {result.same_top1} of {result.positions} likeliest tokens agree",
            fix="its files are whole, so this machine computes something else: run `xamc doctor`, and compile here",
        )
    return result
