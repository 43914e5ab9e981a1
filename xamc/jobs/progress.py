"""What a compile shows while it runs: one row per stage with what it did, its time and its peak memory.

    smollm2-135m-w4  → cpu (x86-64-v3)
     spec      ok          9 keys used, 1 recorded only (workers)                            0.1 s
     export    cached      30 layers: 30 Attention, 60 RotaryEmbedding, 61 norms             0.0 s
     weights   ████████████░░░░░░░░  61 of 135 M parameters, 47 M/s, 1.6 s left

On a terminal the row of the running stage is redrawn; elsewhere every row is printed once, when its stage has ended,
and long stages say how far they are now and then.
"""

from __future__ import annotations

import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from xamc.jobs.memory import MemorySampler

_BAR = 20
_DETAIL, _NARROW, _OTHER_COLUMNS = 60, 24, 47
_PLAIN_DETAIL = 90  # of a pipe or a file, where a row is one line, to be searched
_PLAIN_SECONDS = 15.0


@dataclass
class StageRecord:
    """What one stage did, for the table and for report.json.

    Attributes:
        state: one or two words: ``ok``, ``cached``, ``11 proven``.
        detail: one line of what was made.
        seconds: wall-clock time.
        peak_bytes: largest PSS of the process tree while it ran.
    """

    name: str
    state: str = "ok"
    detail: str = ""
    seconds: float = 0.0
    peak_bytes: int = 0


class Stage:
    """The running stage; its `record` is written by the stage's code."""

    def __init__(self, record: StageRecord, table: Progress) -> None:
        self.record = record
        self._table = table
        self._started = time.monotonic()
        self._spoken = self._started
        self.done = 0.0
        self.total = 0.0
        self._unit = ""

    def result(self, text: str, state: str = "ok") -> None:
        """Say what the stage made; shown when it ends."""
        self.record.detail, self.record.state = text, state

    def progress(self, done: float, total: float, unit: str) -> None:
        """Say how far a long stage is: `done` of `total` units of that name, such as ``parameters``."""
        self.done, self.total, self._unit = done, total, unit
        now = time.monotonic()
        if not self._table.redraws and now - self._spoken > _PLAIN_SECONDS:
            self._spoken = now
            self._table.say(f" {self.record.name:<9} {self.how_far()}")

    def counter(self, total: int, unit: str) -> Callable[[int], None]:
        """What is told of every piece of `total` units that is done."""
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.progress(min(done, total), total, unit)

        return advance

    def how_far(self) -> str:
        """For example ``6.9 of 8.8 B parameters, 0.1 B/s, 14 s left``."""
        scale, letter = _scale(self.total)
        parts = [f"{self.done / scale:.{1 if letter == ' B' else 0}f} of {self.total / scale:.3g}{letter} {self._unit}"]
        elapsed = self.elapsed()
        if self.done > 0 and elapsed > 1:
            parts.append(f"{self.done / scale / elapsed:.2g}{letter}/s")
            parts.append(f"{duration((self.total - self.done) * elapsed / self.done)} left")
        return ", ".join(parts)

    def elapsed(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self._started

    def __rich__(self) -> RenderableType:
        if not self.total:
            width = self._table.detail_width
            detail = self.record.detail if len(self.record.detail) <= width else f"{self.record.detail[: width - 1]}…"
            return _row(self.record.name, "...", detail, self.elapsed(), 0, width)
        full = round(_BAR * min(1.0, self.done / self.total))
        text = Text(f" {self.record.name:<9} ")
        text.append("█" * full, style="green").append("░" * (_BAR - full), style="dim")
        return text.append(f"  {self.how_far()}")


@dataclass
class Progress:
    """Prints the table of a compile and keeps its records.

    Attributes:
        console: where to; a terminal gets colours and a moving row. ``Console(stderr=True)`` under ``--json``.
        sampler: measures memory; its stage peaks are asked for. None shows no memory.
        stages: the records of the stages that have ended, in order.
        warnings: what `warn` was told.
    """

    console: Console
    sampler: MemorySampler | None = None
    stages: list[StageRecord] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def redraws(self) -> bool:
        """Whether rows are redrawn in place."""
        return self.console.is_terminal

    @property
    def detail_width(self) -> int:
        """Columns of a row's detail."""
        return max(_NARROW, min(_DETAIL, self.console.width - _OTHER_COLUMNS)) if self.redraws else _PLAIN_DETAIL

    def header(self, name: str, target: str) -> None:
        """The first line: what is compiled for what."""
        self.console.print(Text.assemble((name, "bold"), "  → ", target))

    def say(self, line: str) -> None:
        """Print a line above the running row."""
        self.console.print(Text(line), soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning, once; where nothing is printed, as in the Python API, it is a `UserWarning`."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.console.print(Text.assemble((" warning: ", "yellow"), text), soft_wrap=True)
            if self.console.quiet:
                warnings.warn(text, stacklevel=3)

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Run a stage: ``with progress.stage("export") as stage: ... stage.result("48 layers")``.

        An error passes through; the stage's row then says ``failed``.
        """
        stage = Stage(StageRecord(name), self)
        if self.sampler:
            self.sampler.start_stage()
        live = Live(stage, console=self.console, transient=True, refresh_per_second=5) if self.redraws else None
        if live:
            live.start()
        try:
            yield stage
        except BaseException:
            stage.record.state = "failed"
            raise
        finally:
            self._measure(stage)
            if live:
                live.stop()
            self.stages.append(stage.record)
            record = stage.record
            shown = record.state, record.detail, record.seconds, record.peak_bytes
            row = _row(record.name, *shown, self.detail_width, self.redraws)
            self.console.print(row, soft_wrap=True)

    def summary(self, running: Stage | None = None) -> list[dict[str, Any]]:
        """The stages that have ended, as data for report.json: seconds, and peak memory in bytes.

        Args:
            running: a stage that is about to end, as far as it is.
        """
        if running is not None:
            self._measure(running)
        return [asdict(record) for record in (*self.stages, *([running.record] if running else ()))]

    def _measure(self, stage: Stage) -> None:
        stage.record.seconds = round(stage.elapsed(), 3)
        stage.record.peak_bytes = self.sampler.stage_peak() if self.sampler else 0


def _row(name: str, state: str, detail: str, seconds: float, peak_bytes: int, width: int, folds: bool = False) -> Text:
    """A row in columns; on a terminal a detail that is longer than its column goes on below, in the same column."""
    style = "red" if state == "failed" else "green"
    memory = f"   {peak_bytes / 2**30:.1f} GiB" if peak_bytes >= 0.05 * 2**30 else ""
    first, *more = (textwrap.wrap(detail, width) or [""]) if folds else [detail]
    text = Text.assemble(
        f" {name:<9} ", (f"{state:<11}", style), f" {first:<{width}} {duration(seconds):>11}", (memory, "dim")
    )
    for line in more:
        text.append(f"\n{'':23}{line}")
    return text


def duration(seconds: float) -> str:
    """Seconds as a person writes them: ``0.4 s``, ``18 s``, ``3 min 20 s``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


def size(nbytes: float) -> str:
    """Bytes as a person writes them, in powers of ten: ``93 MB``, ``5.0 GB``."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if nbytes >= limit:
            value = nbytes / limit
            return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"
    return f"{nbytes:.0f} B"


def _scale(total: float) -> tuple[float, str]:
    if total >= 1e9:
        return 1e9, " B"
    return (1e6, " M") if total >= 1e6 else (1.0, "")
