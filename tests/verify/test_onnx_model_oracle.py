"""What a graph is compared on, and what the comparison of floats leaves out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xamc.artifact.onnx_manifest import GraphTensor
from xamc.errors import InternalError, UnsupportedError
from xamc.verify.onnx_model_oracle import require_same_nan, varied_case

MASK = (GraphTensor("m", "int64", (2, 8)),)
USUAL: dict[str, Any] = {"y": np.ones(4, np.float32)}


def test_integers_on_both_sides_of_zero() -> None:
    case = varied_case(MASK, lambda feeds: {"y": feeds["m"].astype(np.float32)}, USUAL)
    assert case is not None and case[0]["m"].min() < 0 < case[0]["m"].max()


def test_a_model_that_fails_below_zero() -> None:
    def answer(feeds: dict[str, Any]) -> dict[str, Any]:
        if feeds["m"].min() < 0:
            raise UnsupportedError("E1475", "outside", "")
        return {"y": feeds["m"].astype(np.float32)}

    case = varied_case(MASK, answer, USUAL)
    assert case is not None and case[0]["m"].min() > 0


def test_a_model_that_takes_masks_only() -> None:
    def answer(feeds: dict[str, Any]) -> dict[str, Any]:
        with np.errstate(over="ignore"):
            return {"y": (1 - feeds["m"].astype(np.float32)) * np.float32(-3e38)}

    assert varied_case(MASK, answer, USUAL) is None
    assert varied_case((GraphTensor("x", "float32", (2,)),), answer, USUAL) is None


def test_nan_is_not_left_out() -> None:
    nan = {"y": np.array([np.nan, 1], np.float32)}
    require_same_nan("both", nan, nan)
    for actual, expected in ((USUAL, {"y": np.full(4, np.nan, np.float32)}), (nan, {"y": np.ones(2, np.float32)})):
        with pytest.raises(InternalError, match="not NaN in the same places") as caught:
            require_same_nan("both", actual, expected)
        assert caught.value.code == "E1474"
