import numpy as np
import pytest
import torch

from xamc.compiler.verify.metrics import kl_divergence, log_softmax, relative_error, top1_agreement


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
