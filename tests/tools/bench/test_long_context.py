"""The long-context benchmark: its build file compiles, and a process that takes more than announced fails it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import write_tiny
from tools.bench import long_context
from xamc.compiler.plan.plan import make_plan

SERIES = {kv: long_context.Series("fp16", kv, "linear", 1024) for kv in ("fp16", "int8")}


def rows(monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any], kv: str, peak: int) -> list[long_context.Row]:
    class Worker:
        returncode = 0

        def __init__(self, command: list[str], **_: Any) -> None:
            assert command[:3] == [sys.executable, "-m", "tools.bench.long_context"] and "256" in command
            self.stdout = iter([json.dumps({"context": 256, "prefilled": 240}), json.dumps({"found": found})])

        def __enter__(self) -> Worker:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    found = {
        "context": 256,
        "threads": 1,
        "prefilled": 240,
        "prefill_tokens_per_s": 10.0,
        "decode_tokens_per_s": 2.0,
        "peak_rss": peak,
    }
    monkeypatch.setattr(subprocess, "Popen", Worker)
    checkpoint = Path(spec["frontend"]["checkpoint"])
    return list(long_context.run(checkpoint, checkpoint.parent / "artifact", SERIES[kv], [256], 512, 512, 1, 16))


@pytest.mark.parametrize("kv, per_head", [("fp16", 32), ("int8", 20)])
def test_memory_is_compared_with_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kv: str, per_head: int
) -> None:
    write_tiny(tmp_path / "tiny", "llama")  # two layers, two KV heads of 16
    spec = long_context.spec_of(tmp_path / "tiny", tmp_path, 1024, SERIES[kv])
    running = make_plan(spec).running
    assert running is not None and running.kv_sequence == 1024 * 2 * 2 * 2 * per_head
    (within,) = rows(monkeypatch, spec, kv, 2**20)
    (beyond,) = rows(monkeypatch, spec, kv, 2**30)
    assert within.is_within and not beyond.is_within
    assert within.announced_mib < running.total / 2**20  # of 256 tokens, not of the artifact's 1,024


def test_the_resident_set_is_read(tmp_path: Path) -> None:
    assert long_context.peak_rss() > 10 * 2**20


def row(context: int, mode: str, peak: float = 1.0) -> long_context.Row:
    return long_context.Row(
        "w4", "fp16", "linear", context, mode, 2, 512, 10.0, 2.0, 1.0, peak, 2.0, "2026-01-01 00:00"
    )


def test_a_run_goes_on_behind_the_rows_of_the_file(tmp_path: Path) -> None:
    rows = [row(4096, "filled"), row(512, "real")]
    long_context.write_rows(rows, tmp_path / "long.csv")
    known = long_context.read_rows(tmp_path / "long.csv")
    assert known == sorted(rows, key=lambda row: row.context)
    series = long_context.Series("w4", "fp16", "linear", 8192)
    contexts = [8192, 4096, 512]
    assert long_context.missing(series, contexts, 512, 2, known) == [8192]
    assert long_context.missing(series, contexts, 4096, 2, known) == [4096, 8192]  # now to be prefilled
    assert long_context.missing(series, contexts, 512, 1, known) == [512, 4096, 8192]
    assert long_context.read_rows(tmp_path / "none.csv") == []
    assert "| 4,096 | filled |" in long_context.page(known)


@pytest.mark.parametrize("rope, factor", [("linear", 64.0), ("dynamic", 2.0)])
def test_kinds_of_scaling_share_one_set_of_weights(tmp_path: Path, rope: str, factor: float) -> None:
    base = tmp_path / long_context.SHAPE
    base.mkdir()
    (base / "config.json").write_text('{"max_position_embeddings": 2048}')
    (base / "model.safetensors").write_bytes(b"weights")
    checkpoint = long_context.make_checkpoint(tmp_path, rope, 64 * 2048)
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["rope_scaling"] == {"rope_type": rope, "factor": factor}
    assert (checkpoint / "model.safetensors").samefile(base / "model.safetensors")
