"""Widths of the race that are not measured again: their values stay as an earlier run on the same machine left them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tools.bench.engines import BenchError
from tools.bench.lineup import WIDTHS
from tools.bench.samples import Sample, SampleFile

ENVIRONMENT, SAMPLES = "environment.json", "speed.csv"


@dataclass(frozen=True)
class Kept:
    """What stays on the pages.

    Attributes:
        samples: of widths that are not measured again.
        times: width → when its run began, UTC.
    """

    samples: tuple[Sample, ...] = ()
    times: Mapping[int, str] = field(default_factory=dict)

    def when(self, now: str, measured: Collection[int]) -> str:
        """When everything on the pages was measured, as text; `now` is when the widths of this run were."""
        if not self.times:
            return now
        times = {**self.times, **dict.fromkeys(measured, now)}
        return ", ".join(f"{width}-bit {times[width]}" for width in sorted(times))


def keep(out: Path, machine: Mapping[str, str], measured: Collection[int]) -> Kept:
    """What the folder's pages show of other widths than those to be measured.

    Raises:
        BenchError: there are no such pages, or they are of another machine or other packages.
    """
    try:
        environment = json.loads((out / ENVIRONMENT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BenchError(f"{out} has no {ENVIRONMENT}, so there is nothing to keep; leave --keep out") from None
    theirs = environment["machine"]
    if theirs != machine:
        other = sorted(key for key in {*theirs, *machine} if theirs.get(key) != machine.get(key))
        raise BenchError(f"{out} is of another machine or other packages ({', '.join(other)}); measure every width")
    samples = tuple(s for s in SampleFile(out / SAMPLES).samples if s.engine and s.width not in measured)
    present, times = {s.width for s in samples}, environment.get("times", {})
    if unknown := [width for width in sorted(present) if str(width) not in times]:
        raise BenchError(f"{out / ENVIRONMENT} does not say when {unknown[0]} bits were measured; measure every width")
    return Kept(samples, {width: times[str(width)] for width in WIDTHS if width in present})


def write_environment(out: Path, machine: Mapping[str, str], kept: Kept, now: str, measured: Collection[int]) -> None:
    """Writes what `keep` reads: the machine, and when each width was measured."""
    times = {**kept.times, **dict.fromkeys(measured, now)}
    value = {
        "times": {str(width): times[width] for width in sorted(times)},
        "machine": machine,
        "command": "make bench",
    }
    (out / ENVIRONMENT).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
