import numpy as np
import pytest
import torch

from xamc.verify.metrics import kl_divergence, log_softmax, output_error, relative_error, top1_agreement


def _logits(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return (np.random.default_rng(seed).standard_normal((3, 5, 17)) * 6).astype(np.float32)


def test_divergence_against_torch() -> None:
    p, q = _logits(0), _logits(1)
    log_p, log_q = (torch.log_softmax(torch.from_numpy(x).double(), -1) for x in (p, q))
    expected = torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    np.testing.assert_allclose(kl_divergence(p, q), expected.numpy(), rtol=1e-10)
    np.testing.assert_allclose(log_softmax(p), log_p.numpy(), rtol=1e-12)


def test_divergence_is_directed_and_zero_for_shifted_logits() -> None:
    p, q = _logits(0), _logits(1)
    assert not np.allclose(kl_divergence(p, q), kl_divergence(q, p))
    np.testing.assert_allclose(kl_divergence(p, p + 7), 0, atol=1e-5)


def test_top1_agreement_counts_positions() -> None:
    p = np.array([[3.0, 1.0], [0.0, 2.0], [5.0, 4.0], [1.0, 9.0]])
    q = np.array([[1.0, 3.0], [0.0, 2.0], [5.0, 4.0], [1.0, 9.0]])
    assert top1_agreement(p, q) == 0.75


@pytest.mark.parametrize(
    ("actual", "expected", "error"),
    [
        ([1.0, -3.0, 7.0], [1.0, -4.0, float("nan")], 0.25),
        ([1.0, float("nan")], [1.0, 2.0], float("inf")),
        ([1.0, float("inf")], [1.0, 2.0], float("inf")),
        ([1.0], [1.0, 2.0], float("inf")),
        ([], [], 0.0),
        ([0.5], [0.0], 0.5),
        ([2], [1], 1.0),
    ],
)
def test_relative_error(actual: list[float], expected: list[float], error: float) -> None:
    assert relative_error(np.array(actual), np.array(expected)) == error


def test_codes_may_differ_by_rounding_ties_only() -> None:
    """Few and by one: that is 0. More of them, or one by two, is as wrong as it looks; floats get no such mercy."""
    codes = np.arange(-127, 128, dtype=np.int8).repeat(2)
    few, many, far = codes.copy(), codes.copy(), codes.copy()
    few[[100, 300]] += 1
    many[:100] += 1
    far[100] += 2
    assert output_error(few, codes) == 0
    assert output_error(many, codes) == pytest.approx(1 / 127)
    assert output_error(far, codes) == pytest.approx(2 / 127)
    assert output_error(few.astype(np.float32), codes.astype(np.float32)) == pytest.approx(1 / 127)
    assert output_error(few[:-1], codes) == float("inf")
    # int8 arithmetic would wrap 127 - (-127) to -2
    assert output_error(np.full(500, 127, np.int8), np.full(500, -127, np.int8)) == 2
