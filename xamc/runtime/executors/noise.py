"""Pseudo-random numbers without NumPy's generators, which a process that only runs models does not load."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def noise(count: int, seed: int) -> NDArray[np.float32]:
    """Numbers of mean 0 and variance 1, uniform between -sqrt(3) and sqrt(3); equal for equal seeds.

    A counter is hashed by the 32-bit finalizer of MurmurHash3 (Appleby, 2011).

    Args:
        count: how many.
        seed: of the sequence, at least 0.

    Returns:
        float32[count].
    """
    bits = np.arange(count, dtype=np.uint32) + np.uint32(seed * 0x9E3779B9 & 0xFFFFFFFF)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits ^= bits >> np.uint32(shift)
        bits *= np.uint32(factor)
    bits ^= bits >> np.uint32(16)
    width = 2 * 3**0.5
    return (bits.astype(np.float32) * np.float32(width / 2**32)) - np.float32(width / 2)
