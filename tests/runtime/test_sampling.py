"""Sampling against transformers' logits processors, and the distribution of what is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from xamc.errors import MisuseError
from xamc.ir.tolerances import tolerance
from xamc.runtime.sampling import Sampler, Sampling, softmax

VOCAB = 200


def hf_scores(logits: np.ndarray, seen: list[int], options: Sampling) -> np.ndarray:
    scores = torch.from_numpy(logits.copy())[None]
    ids = torch.tensor([seen])
    steps: list[Any] = []
    if options.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
    if options.temperature > 0:
        steps.append(TemperatureLogitsWarper(options.temperature))
        if options.top_k:
            steps.append(TopKLogitsWarper(options.top_k))
        if options.top_p < 1:
            steps.append(TopPLogitsWarper(options.top_p))
    for step in steps:
        scores = step(ids, scores)
    return scores[0].numpy()


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.1, 1.0, 5.0, 20.0]),
    temperature=st.sampled_from([0.0, 0.3, 0.7, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 2, 10, 199, 200, 1000]),
    top_p=st.sampled_from([0.01, 0.3, 0.5, 0.9, 0.99, 1.0]),
    penalty=st.sampled_from([0.8, 1.0, 1.3]),
)
def test_scores_are_those_of_transformers(
    seed: int, spread: float, temperature: float, top_k: int, top_p: float, penalty: float
) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal(VOCAB) * spread).astype(np.float32)
    seen = rng.integers(0, VOCAB, 20)
    options = Sampling(temperature, top_k, top_p, penalty)
    want = hf_scores(logits, seen.tolist(), options)
    got = Sampler(options, seen, VOCAB).scores(logits)
    kept = np.isfinite(want)
    if (np.isfinite(got) != kept).any():
        # transformers sums probabilities in fp32: where the sum of a tail hits 1 - top_p to the last digit, either is
        # right. Only tokens at that border may differ.
        border = np.abs(np.sort(softmax(logits / np.float32(temperature or 1)))[::-1].cumsum() - top_p).min()
        assert border < 1e-6 and (np.isfinite(got) != kept).sum() == 1
    both = kept & np.isfinite(got)
    np.testing.assert_allclose(got[both], want[both], rtol=tolerance("sampling_scores"), atol=0)


def test_greedy_is_argmax_also_after_a_penalty() -> None:
    logits = np.zeros(10, np.float32)
    logits[[3, 7]] = 2.0, 1.9
    assert Sampler(Sampling(), np.array([1]), 10).choose(logits) == 3
    sampler = Sampler(Sampling(repetition_penalty=1.5), np.array([1]), 10)
    assert [sampler.choose(logits) for _ in range(3)] == [3, 7, 3]  # a chosen token counts as seen
    assert Sampler(Sampling(repetition_penalty=1.5), np.array([3]), 10).choose(logits) == 7


def test_draws_follow_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
    sampler = Sampler(Sampling(temperature=1.0, seed=3), np.array([0]), 4)
    counts = np.bincount([sampler.choose(logits) for _ in range(8000)], minlength=4) / 8000
    # Five standard deviations of a frequency over 8000 draws are below 0.028.
    np.testing.assert_allclose(counts, [0.5, 0.25, 0.15, 0.1], atol=0.028)


def test_dropped_tokens_are_never_drawn() -> None:
    logits = np.random.default_rng(0).standard_normal(VOCAB).astype(np.float32)
    sampler = Sampler(Sampling(temperature=2.0, top_k=5, top_p=0.8, seed=1), np.array([0]), VOCAB)
    allowed = set(np.flatnonzero(np.isfinite(sampler.scores(logits))).tolist())
    drawn = {sampler.choose(logits) for _ in range(500)}
    assert drawn == allowed and len(allowed) < 5


def test_rows_of_a_batch_draw_different_numbers() -> None:
    logits = np.zeros(VOCAB, np.float32)
    rows = [Sampler(Sampling(temperature=1.0, seed=1), np.array([0]), VOCAB, row) for row in (0, 1, 0)]
    drawn = [[sampler.choose(logits) for _ in range(20)] for sampler in rows]
    assert drawn[0] == drawn[2] != drawn[1]


@pytest.mark.parametrize(
    "options",
    [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 1.1}, {"repetition_penalty": 0.0}],
)
def test_values_that_mean_nothing(options: dict[str, Any]) -> None:
    with pytest.raises(MisuseError, match=f"E1612 {next(iter(options))} is"):
        Sampling(**options)
