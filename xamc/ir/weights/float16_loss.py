"""Weights so small that float16 stores them worse than bfloat16: below 6e-5 it loses bits, below 3e-8 it has 0."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from xamc.ir.weights.lazy import LazyTensor

BFLOAT16_ROUNDING = 2.0**-9
"""Half a unit in the last place of bfloat16, relative."""
_PLACES, _ROWS = 4, 4


def lost_in_float16(tensors: Mapping[str, LazyTensor]) -> dict[str, float]:
    """Matrices of which a sample of rows moves by more than bfloat16's rounding when it is stored as float16.

    Values beyond float16 are left to the check of every block that is written (E1124).

    Args:
        tensors: by parameter name, of any floating dtype; those in float16 are not read.

    Returns:
        Name -> root mean square of what is lost, relative to that of the values, largest first.
    """
    found: dict[str, float] = {}
    for name, tensor in tensors.items():
        if len(tensor.shape) < 2 or tensor.dtype == "float16":
            continue
        last = max(tensor.shape[0] - _ROWS, 0)
        starts = sorted({place * last // (_PLACES - 1) for place in range(_PLACES)})
        rows = [tensor.read_rows(start, min(start + _ROWS, tensor.shape[0])).astype(np.float64) for start in starts]
        values = np.concatenate([block.reshape(-1) for block in rows])
        values = values[np.abs(values) <= np.finfo(np.float16).max]
        whole = float(np.square(values).mean()) if values.size else 0.0
        lost = float(np.square(values - values.astype(np.float16).astype(np.float64)).mean()) if whole else 0.0
        if lost > whole * BFLOAT16_ROUNDING**2:
            found[name] = float(np.sqrt(lost / whole))
    return dict(sorted(found.items(), key=lambda item: -item[1]))
