"""The batch benchmark: its roofline, and its tables."""

from __future__ import annotations

import pytest

from tools.bench import batch
from tools.bench.probe import Peak


def test_the_roofline_is_the_lower_of_both_limits() -> None:
    work = batch.Work(weight_bytes=900, row_bytes=50, row_operations=400)
    assert work.limit(1, bandwidth=950.0, peak=4000.0) == pytest.approx(1.0)
    assert work.limit(2, bandwidth=1000.0, peak=4000.0) == pytest.approx(2.0)  # weights are read once for both
    assert work.limit(8, bandwidth=1000.0, peak=2000.0) == pytest.approx(5.0)  # from here on arithmetic decides
    assert work.limit(16, bandwidth=1000.0, peak=2000.0) == pytest.approx(5.0)
    assert work.limit(2, bandwidth=0.0, peak=2000.0) == pytest.approx(5.0)
    assert work.limit(2, bandwidth=0.0, peak=0.0) == 0.0


def test_weights_of_16_bits_have_no_integer_peak() -> None:
    peaks = [Peak("int8", 2, 400.0, "vpdpbusd"), Peak("fp32", 2, 200.0, "fma"), Peak("int8", 1, 900.0, "vpdpbusd")]
    assert [batch.peak_of(width, 2, peaks) for width in (4, 8, 16)] == [400.0, 400.0, 200.0]
    assert batch.peak_of(4, 3, peaks) == 0.0


def test_tables_give_medians_and_fractions() -> None:
    rates = {1: (10.0, 12.0, 20.0), 2: (24.0, 30.0, 18.0)}
    results = [
        batch.Result("m", "w4", 2, rows, repeat, rate, 40.0, 20.0 * rows, 1.0, "2026-01-01 00:00")
        for rows, values in rates.items()
        for repeat, rate in enumerate(values)
    ]
    lines = batch.table(results)
    assert lines[2] == "| 1 | 12 (10–20) | 1.00x | 20 | 60% | 1 |"
    assert lines[3] == "| 2 | 24 (18–30) | 2.00x | 40 | 60% | 1 |"
    assert "## m, w4 weights, 2 threads" in batch.page(results, [], {"cpu": "any"})
