"""The machine's limits: a read that takes the time it should, states told apart, and loops that count operations."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.cpu_level.emulated_level import real_machine
from tools.bench.probe import (
    BandwidthProbe,
    arithmetic_peaks,
    compile_loops,
    memory_boundary,
    memory_state,
    timed,
)
from xamc.targets.kernels.isa import Isa


@pytest.mark.parametrize("compiled", [False, True])
def test_the_probe_reads_everything(tmp_path: Path, compiled: bool) -> None:
    loops = compile_loops(tmp_path) if compiled else None
    if compiled and loops is None:
        pytest.skip("no C compiler, or no AVX2")
    # faster than any memory of today would mean that something was not read
    assert 0.05 < BandwidthProbe(2**26, passes=1, loops=loops).gigabytes_per_s(2) < 2000


def test_peaks_name_their_instruction(tmp_path: Path) -> None:
    if not set(Isa.host().cpu_flags) <= set(real_machine().cpu_flags):
        pytest.skip("this level is emulated: the machine has not all of its instructions")
    loops = compile_loops(tmp_path)
    if loops is None:
        pytest.skip("no C compiler, or no AVX2")
    peaks = {peak.kind: peak for peak in arithmetic_peaks(loops, [1])}
    assert peaks["fp32"].instruction == "vfmadd231ps" and peaks["int8"].instruction.startswith("vp")
    # between a crawl and two 512-bit multiply-adds per cycle at 8 GHz
    assert 1e8 < peaks["fp32"].rate < 2 * 2 * 16 * 8e9


def test_without_loops_there_are_no_peaks() -> None:
    assert arithmetic_peaks(None, [1]) == []


def test_works_of_a_pass_run_side_by_side() -> None:
    assert max(timed([lambda: time.sleep(0.05)] * 4, 2)) < 0.15


def test_two_states_are_told_apart() -> None:
    readings = [47.0, 48.5, 46.0, 49.0, 82.0, 80.5, 84.0, 83.0, 47.5]
    boundary = memory_boundary(readings)
    assert boundary is not None and 49 < boundary < 80
    assert memory_state(47, 48, boundary) == "slow"
    assert memory_state(82, 84, boundary) == "fast"
    assert memory_state(47, 84, boundary) == "mixed"
    assert memory_state(47, 84, None) == ""


@pytest.mark.parametrize(
    "readings",
    [
        [],
        [40.0],
        [40.0, 41.0, 39.0, 42.0, 38.0, 40.5],  # noise
        [20.0, 24.0, 28.0, 32.0, 36.0, 40.0, 44.0, 48.0],  # a drift has no gap
        [40.0] * 20 + [80.0],  # one outlier is no state
    ],
)
def test_one_state_is_one_state(readings: list[float]) -> None:
    assert memory_boundary(readings) is None
