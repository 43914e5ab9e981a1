"""Weight matrices as the kernels read them: panels of 32 output rows, for those formats that are packed at load.

`xamc.artifact.packing` has all formats and says why they look so; the simulator packs parameter files with
these when it loads them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]

PANEL = 32
"""Rows of a panel: a multiple of every level's lanes, and small enough to share out 576 rows among a few threads."""


def pad(array: Array, multiple: int, axis: int, value: int = 0) -> Array:
    """`array` with `value` appended along `axis` up to a multiple of `multiple`."""
    missing = -array.shape[axis] % multiple
    if not missing:
        return array
    widths = [(0, missing if i == axis else 0) for i in range(array.ndim)]
    return np.pad(array, widths, constant_values=value)


def float_panels(rows: Array) -> Array:
    """[n, K] of any element type to [P, K, 32]."""
    padded = pad(rows, PANEL, 0)
    return np.ascontiguousarray(padded.reshape(-1, PANEL, padded.shape[1]).transpose(0, 2, 1))


def int8_panels(codes: NDArray[np.int8]) -> Array:
    """int8 [n, K] to uint8 [P, ceil(K/4), 32, 4], each code plus 128."""
    biased: Any = codes.view(np.uint8) ^ np.uint8(128)
    return word_panels(pad(pad(biased, PANEL, 0, 128), 4, 1, 128))


def word_panels(quants: Array) -> Array:
    """uint8 [P * 32, 4 W] to [P, W, 32, 4]: four bytes of a row stay together."""
    words = np.ascontiguousarray(quants).view(np.uint32)
    words = np.ascontiguousarray(words.reshape(-1, PANEL, words.shape[1]).transpose(0, 2, 1))
    return words.view(np.uint8).reshape(*words.shape, 4)


def group_panels(values: Array) -> Array:
    """Scales or zero points [n, groups] to float16 [P, groups, 32]."""
    return float_panels(values.astype(np.float16, copy=False))
