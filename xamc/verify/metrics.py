"""How far two tensors are apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xamc.ir.tolerances import tolerance

Array = NDArray[np.generic]


def relative_error(actual: Array, expected: Array) -> float:
    """max |actual - expected| / max |expected| over the positions where `expected` is not NaN.

    Relative to the tensor's largest value, because a logit near zero is no less precise than a large one. Infinite
    for different shapes and for NaN or infinity in `actual` where `expected` is finite; exact for integers.
    """
    if actual.shape != expected.shape:
        return float("inf")
    if expected.size == 0:
        return 0.0
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    compared = ~np.isnan(b)
    if not compared.any():
        return 0.0
    a, b = a[compared], b[compared]
    if not np.isfinite(a).all():
        return 0.0 if np.array_equal(a, b) else float("inf")
    largest = float(np.abs(b).max())
    difference = float(np.abs(a - b).max())
    return difference if largest == 0.0 else difference / largest


def output_error(actual: Array, expected: Array) -> float:
    """`relative_error`, but 0 for int8 codes that differ as rounding ties explain: few, and by one.

    Codes are rounded values. Two graphs whose values agree to fp32 still round a value in the middle between two codes
    to different ones; a wrong scale, zero point or rounding changes many codes, or one by more.
    """
    if actual.dtype == expected.dtype == np.int8 and actual.shape == expected.shape and expected.size:
        difference = np.abs(actual.astype(np.int16) - expected.astype(np.int16))
        if difference.max() <= 1 and np.mean(difference != 0) <= tolerance("code_ties"):
            return 0.0
    return relative_error(actual, expected)


def log_softmax(logits: Array) -> NDArray[np.float64]:
    """Log probabilities over the last axis."""
    x = logits.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return result


def kl_divergence(reference: Array, other: Array) -> NDArray[np.float64]:
    """KL(reference || other) in nats per position, from logits [..., V]."""
    p, q = log_softmax(reference), log_softmax(other)
    result: NDArray[np.float64] = (np.exp(p) * (p - q)).sum(axis=-1)
    return result


def top1_agreement(reference: Array, other: Array) -> float:
    """Share of positions whose largest logit is the same token, in [0, 1]."""
    same = np.argmax(reference, axis=-1) == np.argmax(other, axis=-1)
    return float(np.mean(same))
