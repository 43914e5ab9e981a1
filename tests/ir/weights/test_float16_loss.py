"""Weights that float16 stores worse than bfloat16 would."""

import numpy as np
import pytest

from xamc.ir.weights.float16_loss import lost_in_float16
from xamc.ir.weights.lazy import ArrayTensor


def _normal(scale: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, scale, (300, 64)).astype(np.float32)


@pytest.mark.parametrize(("scale", "named"), [(1.0, False), (1e-3, False), (3e-6, True), (1e-9, True)])
def test_small_weights_are_named_with_what_they_lose(scale: float, named: bool) -> None:
    values = _normal(scale)
    found = lost_in_float16({"w": ArrayTensor(values)})
    assert ("w" in found) is named
    if named:
        lost = np.linalg.norm(values - values.astype(np.float16).astype(np.float32)) / np.linalg.norm(values)
        assert found["w"] == pytest.approx(lost, rel=0.2)


def test_what_cannot_lose_is_left_alone() -> None:
    """Zeros, vectors, what is float16 already, and values that are refused elsewhere."""
    small = _normal(1e-9)
    tensors = {"zeros": np.zeros((9, 9), np.float32), "vector": small[0], "half": small.astype(np.float16)}
    tensors["large"] = np.full((9, 9), 1e6, np.float32)
    assert lost_in_float16({name: ArrayTensor(array) for name, array in tensors.items()}) == {}


def test_the_worst_comes_first() -> None:
    tensors = {"some": ArrayTensor(_normal(3e-6)), "all": ArrayTensor(_normal(1e-9))}
    assert list(lost_in_float16(tensors)) == ["all", "some"]
