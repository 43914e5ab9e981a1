"""Measured values and the CSV file that keeps them, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One measured value.

    Attributes:
        stage: ``start`` (a process by itself), ``speed`` (a round), ``answer`` or ``peak``.
        model: key of the model.
        engine: as in tables.
        width: nominal bits per weight; engines of one width race against each other.
        threads: of the engine.
        repeat: number of the round, from 0.
        quantity: decode, prefill512, prefill2048 (tokens/s), first (s from a 64-token prompt to its first token),
            decoded (tokens), ready, cold_first (s from the start of the process), peak_rss (bytes), divergence (index
            of the first token of the answer that differs from fp32's; -1: none), or the kind of a peak (operations/s).
        value: in the quantity's unit; NaN if it was left out because it would have taken too long.
        read_before, read_after: GB/s that the same number of threads read just before and after; 0 if not probed.
        time: UTC.
        command: what ran.
    """

    stage: str
    model: str
    engine: str
    width: int
    threads: int
    repeat: int
    quantity: str
    value: float
    read_before: float
    read_after: float
    time: str
    command: str

    @property
    def bandwidth(self) -> float:
        """Mean of both probes in bytes/s."""
        return (self.read_before + self.read_after) / 2 * 1e9


class SampleFile:
    """Samples in a CSV file; a whole round is written at once, so that an interrupted one is measured again."""

    def __init__(self, path: Path) -> None:
        """Reads what is there."""
        self.path = path
        self.samples: list[Sample] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.samples = [_parse(row) for row in csv.DictReader(file)]

    def has(self, stage: str, model: str, threads: int, repeat: int, engines: Iterable[str]) -> bool:
        """Whether every engine has samples of that round."""
        key = (stage, model, threads, repeat)
        present = {s.engine for s in self.samples if (s.stage, s.model, s.threads, s.repeat) == key}
        return set(engines) <= present

    def add(self, samples: Sequence[Sample]) -> None:
        """Appends a round's samples."""
        self.samples += samples
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Sample)], lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(asdict(sample) for sample in samples)


def _parse(row: Mapping[str, str]) -> Sample:
    kinds: dict[str, Callable[[str], int | float]] = {"int": int, "float": float}
    values: dict[str, Any] = {f.name: kinds.get(str(f.type), str)(row[f.name]) for f in fields(Sample)}
    return Sample(**values)


def now() -> str:
    """UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
