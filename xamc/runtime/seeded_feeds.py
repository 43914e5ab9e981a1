"""Inputs of a graph made from a seed: for a first run, and for comparing a compiled graph with its reference."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xamc.artifact.onnx_manifest import GraphTensor

Integers = Literal["mask", "signed", "positive"]
_MOST = 9


def seeded_feeds(
    inputs: Iterable[GraphTensor], seed: int = 0, least: bool = False, integers: Integers = "mask"
) -> dict[str, NDArray[Any]]:
    """Arrays for every input: normal numbers, token ids below their bound, masks that end in padding.

    Args:
        inputs: what a call takes.
        seed: of the numbers.
        least: dimensions that vary have their smallest value instead of their largest.
        integers: what an integer input without a bound is taken for. A mask, or a segment: ones, and zeros in the last
            quarter of its last axis. Or numbers from 1 to 9, ``signed`` on both sides of 0; booleans are random then,
            and ``signed`` indices are also counted from the end of their table.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, NDArray[Any]] = {}
    for tensor in inputs:
        dtype, shape = np.dtype(tensor.dtype), (tensor.least or tensor.shape) if least else tensor.shape
        if dtype.kind == "f":
            feeds[tensor.name] = rng.standard_normal(shape).astype(dtype)
        elif tensor.limit is not None:
            first = -tensor.limit if integers == "signed" and dtype.kind == "i" else 0
            feeds[tensor.name] = rng.integers(first, tensor.limit, shape).astype(dtype)
        elif integers == "mask":
            mask = np.ones(shape, dtype)
            if mask.ndim and mask.shape[-1] >= 4:
                mask[..., -(mask.shape[-1] // 4) :] = 0
            feeds[tensor.name] = mask
        elif dtype.kind == "b":
            feeds[tensor.name] = rng.random(shape) < 0.5
        else:
            numbers = rng.integers(1, _MOST + 1, shape)
            if integers == "signed" and dtype.kind == "i":
                numbers = np.where(rng.random(shape) < 0.5, -numbers, numbers)
            feeds[tensor.name] = np.asarray(numbers).astype(dtype)
    return feeds
