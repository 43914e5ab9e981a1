"""Golden logits: what an artifact answered when it was made, re-checked by `xamc verify` on any machine.

``golden/golden.safetensors`` holds `token_ids` int64[T] and `logits` float32[T, V].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xamc.compiler.artifact.read import Artifact
from xamc.compiler.errors import InputError, ToolchainError

GOLDEN_FILE = "golden.safetensors"

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class GoldenResult:
    """How far the logits of this machine are from the golden ones.

    Attributes:
        deviation: max |actual - golden| / max |golden| over all positions; infinite for NaN.
        tolerance: the bound it keeps.
        same_top1: positions whose likeliest token is the golden one's.
        positions: positions compared.
    """

    deviation: float
    tolerance: float
    same_top1: int
    positions: int


def read_golden(path: Path) -> tuple[I64, F32]:
    """Token ids int64[T] and logits float32[T, V] of a golden file.

    Raises:
        InputError: E1510 it is damaged.
    """
    import safetensors
    import safetensors.numpy

    try:
        tensors: dict[str, Any] = safetensors.numpy.load_file(path)
        token_ids, logits = tensors["token_ids"], tensors["logits"]
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise InputError("E1510", f"{path} can't be read: {error}", fix="compile the model again") from None
    if token_ids.ndim != 1 or logits.ndim != 2 or not 0 < len(token_ids) == len(logits):
        shapes = f"token_ids {list(token_ids.shape)}, logits {list(logits.shape)}"
        raise InputError("E1510", f"{path}: {shapes} do not fit each other", fix="compile the model again")
    return token_ids, logits


def check_golden(artifact: Artifact, compute: Callable[[I64], F32], tolerance: float) -> GoldenResult | None:
    """Run an artifact on its golden token ids and compare.

    Args:
        artifact: an artifact whose digests are known to be right.
        compute: token_ids int64[1, T] → logits float32[1, T, V]; the runtime's `Model.logits`.
        tolerance: bound of the deviation.

    Returns:
        The result, or None when the artifact holds no golden logits.

    Raises:
        InputError: E1510.
        ToolchainError: E1511 the logits are further apart than `tolerance`.
    """
    folder = artifact.manifest.golden
    if folder is None:
        return None
    token_ids, golden = read_golden(artifact.file(f"{folder}/{GOLDEN_FILE}"))
    actual, expected = compute(token_ids[None])[0].astype(np.float64), golden.astype(np.float64)
    difference = np.abs(actual - expected).max()
    largest = np.abs(expected).max()
    deviation = float(difference / largest) if np.isfinite(difference) else float("inf")
    same = int((actual.argmax(-1) == expected.argmax(-1)).sum())
    if not deviation <= tolerance:
        raise ToolchainError(
            "E1511",
            f"{artifact.path}: logits differ from the golden ones by {deviation:.2g} (relative), "
            f"allowed are {tolerance:.2g}; {same} of {len(token_ids)} likeliest tokens agree",
            fix="its files are whole, so this machine computes something else: run `xamc doctor`, and compile here",
        )
    return GoldenResult(deviation, tolerance, same, len(token_ids))
