from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from xamc.jobs import progress as progress_module
from xamc.jobs.memory import MemorySampler
from xamc.jobs.progress import Progress, duration, size


def _plain() -> tuple[Progress, io.StringIO]:
    output = io.StringIO()
    return Progress(Console(file=output, width=40), MemorySampler()), output


def test_plain_output_has_one_whole_line_per_stage() -> None:
    progress, output = _plain()
    progress.header("smollm2", "cpu (x86-64-v3)")
    with progress.stage("export") as stage:
        stage.result("30 layers: 30 Attention, 60 RotaryEmbedding, 61 norms and more than a line", "cached")
    first, second = output.getvalue().splitlines()
    assert first == "smollm2  → cpu (x86-64-v3)"
    assert second.startswith(" export    cached      30 layers: 30 Attention") and re.search(r" \d+\.\d s( |$)", second)
    (record,) = progress.stages
    assert (record.name, record.state) == ("export", "cached")
    assert record.peak_bytes > 10 * 2**20
    assert progress.summary()[0]["detail"].startswith("30 layers")
    assert "\x1b" not in output.getvalue()


def test_failing_stage_says_so_and_the_error_passes() -> None:
    progress, output = _plain()
    with pytest.raises(ValueError, match="boom"), progress.stage("lower"):
        raise ValueError("boom")
    assert "failed" in output.getvalue()
    assert progress.stages[0].state == "failed"


def test_long_stage_speaks_now_and_then_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, output = _plain()
    clock = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    with progress.stage("weights") as stage:
        for step in range(1, 5):
            clock[0] += 10
            stage.progress(step * 1.1e9, 8.8e9, "parameters")
        stage.result("all")
    lines = output.getvalue().splitlines()
    assert len(lines) == 3  # at 20 s, at 40 s, at the end
    assert lines[0].strip() == "weights   2.2 of 8.8 B parameters, 0.11 B/s, 60 s left"


def test_terminal_draws_a_bar() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120, color_system=None)
    progress = Progress(console)
    with progress.stage("weights") as stage:
        stage.progress(5, 10, "tensors")
        assert "█" * 10 + "░" * 10 in console._render_buffer(console.render(stage))  # type: ignore[arg-type]
    assert progress.redraws


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_columns_stay_in_line_on_a_terminal(columns: int) -> None:
    output = io.StringIO()
    progress = Progress(Console(file=output, width=columns, force_terminal=True, color_system=None))
    details = {
        "spec": "5 keys used",
        "passes": "worst 9.1e-07 at kv_cache; 132 rewrites; nothing to do for norms, swiglu and others",
        "codegen": "x86-64-v4+vnni, 7 Relax passes, proven, worst 6.5e-04 at kv_storage, kernels 6.5e-04",
    }
    for name, detail in details.items():
        with progress.stage(name) as stage:
            stage._started -= 200.4 if name == "codegen" else 0
            stage.result(detail)
    lines = [re.sub(r".*\r|\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in output.getvalue().splitlines()]
    rows = [line for line in lines if re.search(r" (\d+\.\d|\d+ min \d\d) s$", line) and "..." not in line]
    assert [row.split()[0] for row in rows] == list(details)
    assert len({len(row) for row in rows}) == 1 and len(rows[0]) <= columns
    shown = " ".join(line[23 : rows[0].rindex("  ")] for line in lines if line.startswith(" ") and "..." not in line)
    assert all(detail in " ".join(shown.split()) for detail in (details["spec"],))
    for detail in details.values():
        assert all(word in " ".join(lines) for word in detail.split())


def test_columns_stay_in_line_in_a_pipe() -> None:
    progress, output = _plain()
    for detail in ("short", "x86-64-v4+vnni, 7 Relax passes, proven, worst 6.5e-04 at kv_storage, kernels 6.5e-04"):
        with progress.stage("codegen") as stage:
            stage.result(detail)
    first, second = (re.search(r" \d+\.\d s", line) for line in output.getvalue().splitlines())
    assert first is not None and second is not None and first.end() == second.end()


def test_a_warning_is_said_once() -> None:
    progress, output = _plain()
    progress.warn("the cache is read-only")
    progress.warn("the cache is read-only")
    assert output.getvalue().count("read-only") == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.96, "10 s"), (119.4, "119 s"), (200, "3 min 20 s"), (3600, "60 min 00 s")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("nbytes", "text"), [(0, "0 B"), (93e6, "93 MB"), (4.96e9, "5.0 GB"), (9.96e9, "10 GB")])
def test_size(nbytes: float, text: str) -> None:
    assert size(nbytes) == text


def test_a_warning_that_nobody_would_see_is_pythons() -> None:
    """The Python API prints no table."""
    progress = Progress(Console(quiet=True))
    with pytest.warns(UserWarning, match="costs 0.1 nats"):
        progress.warn("the cache costs 0.1 nats")
    assert progress.warnings == ["the cache costs 0.1 nats"]
