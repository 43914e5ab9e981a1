"""The race itself, with engines that only add: the worker's protocol, turns, what is left out, and going on."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.bench import speed
from tools.bench.engines import BenchError, EngineChoice, Worker
from tools.bench.probe import BandwidthProbe
from tools.bench.samples import SampleFile
from tools.bench.speed import Plan, divergence, estimate_minutes, fit_together, measure_answers, measure_start, spent

KIND = "tests.tools.bench.fake_engine"
IDS = np.arange(30_000) % 97


def fake(weights: str, **options: Any) -> EngineChoice:
    settings = {"modulus": 101, "seconds": 1e-5, **options}
    return EngineChoice(KIND, weights, Path("x"), "", width=4, model="m", options=settings, weights_count=1000)


def test_protocol(tmp_path: Path) -> None:
    with Worker(fake("a"), 1, tmp_path / "log") as worker:
        assert worker.ask(do="load")["seconds"] >= 0
        answer = worker.ask(do="generate", ids=[1, 2], new_tokens=3, seconds=1.0)
        assert answer["token_ids"] == [3, 6, 12]
        assert worker.ask(do="prefill", ids=[1] * 1000)["seconds"] >= 1e-2
        worker.ask(do="logits", ids=[[1, 2]], out=str(tmp_path / "logits.npy"))
        # a Python process without NumPy takes a few MiB, with it tens
        assert 2**22 < worker.ask(do="memory")["bytes"] < 2**30
        assert worker.age > 0
    assert np.load(tmp_path / "logits.npy").tolist() == [[[1.0, 2.0]]]


def test_a_dead_engine_says_its_last_words(tmp_path: Path) -> None:
    with (
        Worker(fake("a", fail=True), 1, tmp_path / "log") as worker,
        pytest.raises(BenchError, match="a wheel came off"),
    ):
        worker.ask(do="load")


def run(engines: list[EngineChoice], plan: Plan, folder: Path) -> tuple[SampleFile, list[str]]:
    said: list[str] = []
    file = SampleFile(folder / "speed.csv")
    probe = BandwidthProbe(2**22, passes=1)
    speed.measure_speed(engines, 1, plan, IDS, probe, file, folder / "log", said.append)
    return file, said


def test_engines_take_turns_and_a_finished_round_is_kept(tmp_path: Path) -> None:
    engines, plan = [fake("a"), fake("b")], Plan(2, [1], [128], new_tokens=8)
    file, said = run(engines, plan, tmp_path)
    order = [s.engine for s in file.samples if s.quantity == "decode"]
    assert order == [engines[0].name, engines[1].name] * 2
    assert all(s.read_before > 0 and s.read_after > 0 for s in file.samples if s.quantity != "decoded")
    assert any("round 2 of 2" in text for text in said)
    first = next(s for s in file.samples if s.quantity == "decode")
    assert first.value == pytest.approx(7 / 8e-3)

    # an interrupted second round is measured again, the first is not
    header, *rows = (tmp_path / "speed.csv").read_text().splitlines(keepends=True)
    (tmp_path / "speed.csv").write_text("".join([header, *rows[: len(rows) // 2]]))
    again, said = run(engines, plan, tmp_path)
    assert {s.repeat for s in again.samples} == {0, 1}
    assert not any("round 1 of 2" in text for text in said)
    assert [s.time for s in again.samples if s.repeat == 0] == [s.time for s in file.samples if s.repeat == 0]

    _, said = run(engines, plan, tmp_path)
    assert said == [], "nothing is left to do"


def test_slow_cells_are_measured_less_and_endless_ones_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "PREFILL_SECONDS", 0.5)
    slow = fake("slow", seconds=2e-3)  # 0.13 s for 64 tokens, so 1,000 would take 2 s
    file, _ = run([fake("quick"), slow], Plan(3, [1], [128, 1000], new_tokens=4, cell_seconds=0.2), tmp_path)
    counts = {(s.engine, s.quantity): 0 for s in file.samples}
    for s in file.samples:
        counts[s.engine, s.quantity] += 1
    assert counts[slow.name, "prefill128"] == 1, "0.26 s are over 0.2 s"
    assert counts[fake("quick").name, "prefill128"] == 3
    (left_out,) = [s for s in file.samples if (s.engine, s.quantity) == (slow.name, "prefill1000")]
    assert math.isnan(left_out.value)


def test_starting_counts_from_the_process(tmp_path: Path) -> None:
    started = time.monotonic()
    samples = {s.quantity: s.value for s in measure_start(fake("a"), 1, 0, Plan(1, [1], [128]), IDS, tmp_path / "log")}
    assert 0 < samples["ready"] < samples["cold_first"] < time.monotonic() - started
    assert samples["peak_rss"] > 2**22


def test_answers_are_compared_with_the_reference(tmp_path: Path) -> None:
    file = SampleFile(tmp_path / "speed.csv")
    engines = [fake("same"), fake("other", modulus=89)]
    measure_answers(fake("reference"), engines, 1, IDS, file, tmp_path / "log", lambda text: None)
    found = {s.engine: s.value for s in file.samples}
    assert found[engines[0].name] == -1
    assert found[engines[1].name] >= 0


def test_divergence() -> None:
    assert divergence([1, 2, 3], [1, 2, 3]) == -1
    assert divergence([1, 2, 3], [1, 9, 3]) == 1
    assert divergence([1, 2, 3], [1, 2]) == 2


def test_memory_decides_whether_engines_stay_loaded() -> None:
    engine = EngineChoice(KIND, "a", Path("x"), "", width=16, stored_bytes=2 * 10**9, weights_count=10**9)
    assert fit_together([engine], 10 * 10**9)
    assert not fit_together([engine] * 3, 10 * 10**9)


def test_time_spent_and_the_estimate() -> None:
    assert spent([], "decode", 128) == 0
    plan = Plan(3, [1, 2], [512], cell_seconds=10.0)
    short = estimate_minutes([(10**8, 10)], plan, 1e11, 4e10)
    assert 0 < short < estimate_minutes([(10**8, 10), (10**9, 10)], plan, 1e11, 4e10)


def test_a_process_may_keep_compiled_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else ours, which no pip has compiled, would be compiled again at every start."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    with Worker(fake("a"), 1, tmp_path / "log") as worker:
        worker.ask(do="load")
        assert b"PYTHONDONTWRITEBYTECODE=" in Path(f"/proc/{worker.pid}/environ").read_bytes().split(b"\0")
