"""Numbers and tables of `make bench`, on values worked out by hand or by another formula."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tools.bench import tables
from tools.bench.checkpoint import half_split, parameter_name
from tools.bench.corpus import prompt
from tools.bench.engines import EngineChoice
from tools.bench.fidelity import compare, log_softmax
from tools.bench.results import Results
from tools.bench.samples import Sample, SampleFile

WEIGHTS = 10**9


def engine(kind: str, weights: str, width: int = 4, token_bytes: int = 2 * 10**9) -> EngineChoice:
    return EngineChoice(
        kind,
        weights,
        Path("nowhere"),
        "source",
        width=width,
        model="m",
        stored_bytes=token_bytes,
        token_bytes=token_bytes,
        weights_count=WEIGHTS,
        layers_count=WEIGHTS,
    )


def sample(
    name: str,
    quantity: str,
    value: float,
    *,
    repeat: int = 0,
    stage: str = "speed",
    probes: tuple[float, float] = (19.0, 21.0),
    width: int = 4,
) -> Sample:
    when = "2026-01-01T00:00:00Z"
    return Sample(stage, "m", name, width, 2, repeat, quantity, value, *probes, when, "command")


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


def test_a_cell_is_its_median_its_range_and_its_share_of_the_limit() -> None:
    ours = engine("xamc", "w4")
    values = [sample("xamc w4", "decode", value, repeat=r) for r, value in enumerate((3.0, 5.0, 4.0))]
    cell = Results(values, [ours]).cell(ours, "decode", 2)
    assert (cell.median, min(cell.values), max(cell.values)) == (4.0, 3.0, 5.0)
    # 2e9 bytes x 4 tokens/s over the mean of 19 and 21 GB/s
    assert cell.limit == pytest.approx(0.4)
    assert cell.ratios == {} and not cell.loses
    assert tables.spread(cell.values) == "4 (3–5)"


def test_prefill_is_limited_by_the_best_peak_of_its_width() -> None:
    peaks = [sample("", kind, rate, stage="peak") for kind, rate in (("int8", 8e12), ("fp32", 2e12))]
    four, sixteen = engine("xamc", "w4"), engine("xamc", "bf16", 16)
    results = Results([*peaks, sample("xamc w4", "prefill512", 1000.0)], [four, sixteen])
    assert results.limit(four, "prefill512", 2) == 8e12 / (2 * WEIGHTS)
    assert results.limit(sixteen, "prefill512", 2) == 2e12 / (2 * WEIGHTS)
    assert results.cell(four, "prefill512", 2).limit == pytest.approx(0.25)


def test_the_ratio_is_to_the_best_peer_of_the_same_width() -> None:
    engines = [
        engine("xamc", "w4"),
        engine("llama_cpp", "Q4_0"),
        engine("openvino", "int4"),
        engine("openvino", "int8", 8),
    ]
    samples = [
        sample("xamc w4", "decode", 30.0),
        sample("llama.cpp Q4_0", "decode", 40.0),
        sample("OpenVINO int4", "decode", 20.0),
        sample("OpenVINO int8", "decode", 90.0, width=8),
    ]
    results = Results(samples, engines)
    assert results.cell(engines[0], "decode", 2).ratios == {"": 0.75}
    assert results.cell(engines[0], "decode", 2).loses
    assert results.cell(engines[1], "decode", 2).ratios == {}, "only our rows are compared"
    assert results.best("m", 4, "decode", 2) == {"": 0.75}


def test_of_times_and_memory_the_lower_wins() -> None:
    engines = [engine("xamc", "w4"), engine("llama_cpp", "Q4_0"), engine("llama_cpp", "Q4_1")]
    samples = [
        sample(name, "ready", value, stage="start", probes=(0.0, 0.0))
        for name, value in (("xamc w4", 0.5), ("llama.cpp Q4_0", 1.0), ("llama.cpp Q4_1", 2.0))
    ]
    assert Results(samples, engines).cell(engines[0], "ready", 2, lower_wins=True).ratios == {"": 2.0}


def test_ratios_compare_what_was_measured_in_the_same_memory_state() -> None:
    engines = [engine("xamc", "w4"), engine("llama_cpp", "Q4_0")]
    slow, fast, mixed = (48.0, 47.0), (82.0, 83.0), (47.0, 82.0)
    samples = []
    for repeat in range(3):
        samples += [
            sample("xamc w4", "decode", 10.0 + repeat, repeat=repeat, probes=slow),
            sample("llama.cpp Q4_0", "decode", 10.0, repeat=repeat, probes=slow),
            sample("xamc w4", "decode", 20.0, repeat=repeat, probes=fast),
            sample("llama.cpp Q4_0", "decode", 25.0, repeat=repeat, probes=fast),
            # a flip in the middle of a measurement says nothing about either state
            sample("llama.cpp Q4_0", "decode", 99.0, repeat=repeat, probes=mixed),
        ]
    results = Results(samples, engines)
    cell = results.cell(engines[0], "decode", 2)
    assert cell.ratios == {"slow": pytest.approx(1.1), "fast": pytest.approx(0.8)}
    assert cell.loses
    assert tables.ratio_text(cell.ratios) == "**slow 1.10x, fast 0.80x**"
    assert "GB/s slow, 82.0 (82.0–83.0) GB/s fast" in tables.speed_page(results, {"cpu": "some"}, "today")


def test_a_run_that_never_settles_still_gives_a_ratio() -> None:
    engines = [engine("xamc", "w4"), engine("llama_cpp", "Q4_0")]
    samples = [
        sample(name, "decode", value, repeat=repeat, probes=(40.0, 80.0))
        for name, value in (("xamc w4", 12.0), ("llama.cpp Q4_0", 10.0))
        for repeat in range(3)
    ]
    cell = Results(samples, engines).cell(engines[0], "decode", 2)
    assert tables.ratio_text(cell.ratios) == "unsettled 1.20x"


def race() -> Results:
    engines = [engine("xamc", "w4"), engine("llama_cpp", "Q4_0"), engine("transformers", "bf16", 16)]
    samples = [
        *(sample("xamc w4", q, 10.0, repeat=r) for q in ("decode", "prefill512") for r in range(3)),
        sample("llama.cpp Q4_0", "decode", 20.0),
        sample("llama.cpp Q4_0", "prefill512", 5.0),
        sample("transformers bf16", "decode", 1.0, width=16),
        sample("transformers bf16", "prefill512", math.nan, width=16),
        *(sample(name, "first", value) for name, value in (("xamc w4", 0.1), ("llama.cpp Q4_0", 0.2))),
        *(sample(n, "ready", v, stage="start") for n, v in (("xamc w4", 0.5), ("llama.cpp Q4_0", 0.4))),
        sample("xamc w4", "peak_rss", 2 * 10**9 + 2**28, stage="start"),
        sample("xamc w4", "divergence", -1, stage="answer"),
        sample("llama.cpp Q4_0", "divergence", 8, stage="answer"),
    ]
    return Results(samples, engines)


def test_the_page_shows_losing_cells_bold_and_what_was_left_out() -> None:
    page = tables.speed_page(race(), {"cpu": "some"}, "today", "**busy**")
    row = next(line for line in page.splitlines() if line.startswith("| xamc w4 | 16.00 |"))
    assert "| **10.0 (10.0–10.0)** | 100% | **0.50x** | 10.0 (10.0–10.0) | – | 2.00x | 100 |" in row
    assert "| transformers bf16 | 16.00 | 1.0 | 10% | – | > 60 s | – | – | – |" in page
    assert "| xamc w4 | **0.50** | **0.80x** | – | 2,163 | 256 | never |" in page
    assert "| llama.cpp Q4_0 | 0.40 | – | – | – | – | 8 |" in page
    assert "**busy**" in page and "one state" in page


def test_ratios_list_losses() -> None:
    text = tables.ratios_section(race(), {"cpu": "some", "level": "x86-64-v3", "cpus": "2"}, "today")
    assert text.startswith("**x86-64-v3** (some, 2 CPUs; today),\n") and text.endswith("|\n")
    # decode and ready are behind, prefill and first token ahead
    assert "| m, 4-bit | **0.50x** | 2.00x | – | 2.00x | **0.80x** | – |" in text
    assert "(2 of 4 cells)" in text


def test_bars_have_their_roofline() -> None:
    panels = tables.bars(race(), "m")["panels"]
    assert isinstance(panels, list) and [p["quantity"] for p in panels] == ["decode", "prefill512"]
    first = panels[0]["rows"][0]
    # the median probe is 20 GB/s, a token reads 2 GB
    assert first == {
        "engine": "xamc w4", "ours": True, "width": 4, "median": 10.0, "low": 10.0, "high": 10.0, "limit": 10.0
    }  # fmt: skip
    assert [row["engine"] for row in panels[1]["rows"]] == ["xamc w4", "llama.cpp Q4_0"]


def test_whole_rounds_survive(tmp_path: Path) -> None:
    file = SampleFile(tmp_path / "speed.csv")
    file.add([sample("a", "decode", 1.5), sample("b", "decode", 2.0), sample("b", "prefill2048", math.nan)])
    again = SampleFile(tmp_path / "speed.csv")
    assert again.samples[:2] == file.samples[:2]
    assert math.isnan(again.samples[2].value)
    assert again.has("speed", "m", 2, 0, ["a", "b"])
    assert not again.has("speed", "m", 2, 1, ["a"])
    assert not again.has("speed", "m", 2, 0, ["c"])
    assert not again.has("speed", "other", 2, 0, ["a"])


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
