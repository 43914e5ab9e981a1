"""The long-context benchmark: its build file compiles, and a process that takes more than announced fails it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import write_tiny
from tools.bench import long_context
from xamc.compiler.plan import make_plan


def rows(monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any], peak: int) -> list[long_context.Row]:
    class Worker:
        returncode = 0

        def __init__(self, command: list[str], **_: Any) -> None:
            assert command[:3] == [sys.executable, "-m", "tools.bench.long_context"] and "256" in command
            self.stdout = iter([line])

        def __enter__(self) -> Worker:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    line = (
        '{"context": 256, "threads": 1, "prefilled": 240, "prefill_tokens_per_s": 10.0, "decode_tokens_per_s": 2.0, '
        f'"peak_rss": {peak}}}'
    )
    monkeypatch.setattr(long_context.subprocess, "Popen", Worker)
    return list(long_context.run(Path("artifact"), spec, [256], 1, 16))


@pytest.mark.parametrize("kv, per_head", [("fp16", 32), ("int8", 20)])
def test_memory_is_compared_with_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kv: str, per_head: int
) -> None:
    write_tiny(tmp_path / "tiny", "llama")  # two layers, two KV heads of 16
    spec = long_context.spec_of(tmp_path / "tiny", tmp_path, 1024, kv, "fp16")
    running = make_plan(spec).running
    assert running is not None and running.kv_sequence == 1024 * 2 * 2 * 2 * per_head
    (within,) = rows(monkeypatch, spec, 2**20)
    (beyond,) = rows(monkeypatch, spec, 2**30)
    assert within.is_within and not beyond.is_within
    assert within.announced_mib < running.total / 2**20  # of 256 tokens, not of the artifact's 1,024


def test_the_resident_set_is_read(tmp_path: Path) -> None:
    assert long_context.peak_rss() > 10 * 2**20
