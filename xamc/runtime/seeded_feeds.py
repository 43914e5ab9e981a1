"""Inputs of a graph made from a seed: for a first run, and for comparing a compiled graph with its reference."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xamc.compiler.artifact.graph_manifest import GraphTensor


def seeded_feeds(inputs: Iterable[GraphTensor], seed: int = 0, least: bool = False) -> dict[str, NDArray[Any]]:
    """Arrays for every input: normal numbers, token ids below their bound, masks that end in padding.

    Args:
        inputs: what a call takes.
        seed: of the numbers.
        least: extents that vary have their smallest value instead of their largest.

    An integer input without a bound is taken for a mask or a segment: ones, and zeros in the last quarter of its last
    axis.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, NDArray[Any]] = {}
    for tensor in inputs:
        dtype, shape = np.dtype(tensor.dtype), (tensor.least or tensor.shape) if least else tensor.shape
        if dtype.kind == "f":
            feeds[tensor.name] = rng.standard_normal(shape).astype(dtype)
        elif tensor.limit is not None:
            feeds[tensor.name] = rng.integers(0, tensor.limit, shape).astype(dtype)
        else:
            mask = np.ones(shape, dtype)
            if mask.ndim and mask.shape[-1] >= 4:
                mask[..., -(mask.shape[-1] // 4) :] = 0
            feeds[tensor.name] = mask
    return feeds
