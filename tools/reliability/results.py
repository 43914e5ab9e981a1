"""The numbers of docs/reliability.md: one CSV row per check, and the table that is made of them."""

from __future__ import annotations

import csv
import datetime
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

ROOT = Path(__file__).parents[2]
CSV = ROOT / "docs" / "reliability.csv"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


@dataclass(frozen=True)
class Row:
    """One check: how often it was tried and failed, with which seed and when; `note` says what was counted."""

    check: str
    tried: int
    failed: int
    seed: int
    date: str
    note: str


def today() -> str:
    """The date of a result, in UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def read(path: Path = CSV) -> list[Row]:
    """All rows, in the file's order; an absent file has none."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Row(line["check"], int(line["tried"]), int(line["failed"]), int(line["seed"]), line["date"], line["note"])
            for line in csv.DictReader(file)
        ]


def record(rows: Iterable[Row], path: Path = CSV) -> None:
    """Replaces the rows of the same checks, keeps the others, and writes the file sorted by check.

    The page beside it, of the same name, gets the same rows.
    """
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # checks that run side by side keep each other's rows
        merged = {row.check: row for row in (*read(path), *rows)}
        unfinished = path.with_suffix(".new")
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(merged[name]) for name in sorted(merged))
        unfinished.replace(path)  # checks record as they go on; whoever ends them loses nothing
        if (beside := path.with_suffix(".md")).is_file():
            publish(path, beside)
    finally:
        os.close(folder)


def done_before(check: str, seed: int, path: Path = CSV) -> int:
    """How often a check was tried with this seed; 0 where one of them failed: it begins anew."""
    return next((row.tried for row in read(path) if row.check == check and row.seed == seed and not row.failed), 0)


def end_tidily() -> None:
    """Lets SIGTERM end a check as Ctrl-C does, so that its folders and mounts go with it."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def table(rows: Iterable[Row]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| check | tried | failed | seed | date | what |", "|---|---:|---:|---:|---|---|"]
    lines += [f"| {r.check} | {r.tried:,} | {r.failed:,} | {r.seed} | {r.date} | {r.note} |" for r in rows]
    return "\n".join(lines)


def page(text: str, rows: Iterable[Row]) -> str:
    """`text` with the table between its two marks replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{after}"


def publish(csv_path: Path = CSV, page_path: Path = PAGE) -> None:
    """Writes the table of `csv_path` into the page."""
    page_path.write_text(page(page_path.read_text(encoding="utf-8"), read(csv_path)), encoding="utf-8")


class Counter:
    """Progress, ``kill  120 of 300, 1 failed``: redrawn on a terminal, elsewhere a line a minute."""

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total = name, total
        self._terminal, self._said = sys.stderr.isatty(), time.monotonic()

    def step(self, done: int, failed: int) -> None:
        """Shows how far it is."""
        text = f"{done:,} of {self._total:,}, {failed} failed"
        if self._terminal:
            sys.stderr.write(f"\r{self._name}  {text}\x1b[K")
            sys.stderr.flush()
        elif time.monotonic() - self._said > 60:
            self.say(text)

    def say(self, text: str) -> None:
        """A line that stays."""
        self._said = time.monotonic()
        sys.stderr.write(f"{chr(13) + chr(27) + '[K' if self._terminal else ''}{self._name}: {text}\n")
        sys.stderr.flush()
