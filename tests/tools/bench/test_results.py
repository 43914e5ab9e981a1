"""Numbers and tables of `make bench`, on values worked out by hand or by another formula."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tools.bench.checkpoint import half_split, parameter_name
from tools.bench.corpus import prompt
from tools.bench.fidelity import compare, log_softmax
from tools.bench.probe import BandwidthProbe
from tools.bench.speed import SLOW_TURN, Sample, SampleFile
from tools.bench.tables import limit_share, speed_page, spread


def sample(engine: str, quantity: str, value: float, *, repeat: int = 0, stage: str = "speed") -> Sample:
    return Sample(stage, engine, 2, repeat, quantity, value, 10.0, 30.0, "2026-01-01T00:00:00Z", "command")


def test_divergence_of_two_coins() -> None:
    reference = np.log(np.array([[[0.5, 0.5], [0.9, 0.1]]], np.float32))
    other = np.log(np.array([[[0.25, 0.75], [0.9, 0.1]]], np.float32)) + 7  # logits may be shifted
    result = compare("x", reference, other, np.array([[0, 1]]), block=1)
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert result.mean_kl == pytest.approx(first / 2, rel=1e-5)
    assert result.top1 == 0.5
    assert result.positions == 2
    assert result.perplexity == pytest.approx(1 / 0.75, rel=1e-5)  # the one token that has a predecessor


def test_blocks_do_not_change_the_result() -> None:
    generator = np.random.default_rng(0)
    reference, other = generator.standard_normal((2, 2, 9, 11)).astype(np.float32)
    ids = generator.integers(0, 11, (2, 9))
    results = [compare("x", reference, other, ids, block=block) for block in (1, 4, 9)]
    assert results[0].mean_kl > 0.1
    for result in results[1:]:
        assert result.mean_kl == pytest.approx(results[0].mean_kl)
        assert result.perplexity == pytest.approx(results[0].perplexity)


def test_log_softmax_of_large_logits_is_finite() -> None:
    assert np.allclose(np.exp(log_softmax(np.array([[1e4, 1e4 - 1.0]], np.float32))).sum(), 1.0)


def test_cells_and_shares() -> None:
    assert spread([3.0, 1.0, 2.0]) == "2 (1–3)"
    # 2e9 bytes x 5 tokens/s over the mean of 10 and 30 GB/s
    assert limit_share([sample("xamc w4", "decode", 5.0)], 2e9) == "50%"


def test_a_losing_cell_is_bold_and_a_slow_engine_says_so() -> None:
    samples = [
        *(sample("xamc w4", q, 10.0, repeat=r) for q in ("decode", "prefill") for r in range(3)),
        sample("transformers bf16", "decode", 20.0),
        sample("transformers bf16", "prefill", 5.0),
        sample("xamc w4", "load", 0.5, stage="start"),
        sample("xamc w4", "weight_bytes", 1e9, stage="start"),
    ]
    page = speed_page(samples, ["xamc w4", "transformers bf16"], {"cpu": "some"}, "today")
    row = next(line for line in page.splitlines() if line.startswith("| xamc w4 |") and "x |" in line)
    assert "**10 (10–10)** | 0.50x | 50% | 10 (10–10) | 2.00x" in row
    assert "transformers bf16 (1 rounds)" in page


def test_whole_rounds_survive(tmp_path: Path) -> None:
    file = SampleFile(tmp_path / "speed.csv")
    file.add([sample("a", "decode", 1.5), sample("b", "decode", 2.0), sample("b", "turn", SLOW_TURN + 1)])
    again = SampleFile(tmp_path / "speed.csv")
    assert again.samples == file.samples
    assert again.has("speed", 2, 0, ["a", "b"])
    assert not again.has("speed", 2, 1, ["a"])
    assert not again.has("speed", 2, 0, ["c"])
    assert again.slow(2) == {"b"} and again.slow(1) == set()


def test_prompts_begin_elsewhere_every_time() -> None:
    ids = np.arange(20_000)
    assert len({prompt(ids, 64, repeat)[0] for repeat in range(10)}) == 10
    assert len(prompt(ids, 512, 37)) == 512


def test_gguf_rows_and_names() -> None:
    assert parameter_name("blk.3.attn_q.weight") == "model.layers.3.self_attn.q_proj.weight"
    assert parameter_name("output_norm.weight") == "model.norm.weight"
    # one head of width 6 in llama.cpp's order: pairs (0, 3), (1, 4), (2, 5) side by side
    rows = np.array([[0], [3], [1], [4], [2], [5]])
    assert half_split(rows, 1)[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_the_probe_reads_everything() -> None:
    assert 0.05 < BandwidthProbe(2**22, passes=1).gigabytes_per_s(2) < 5000
