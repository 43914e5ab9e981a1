"""The numbers of docs/reliability.md: one CSV row per check, and the table that is made of them."""

from __future__ import annotations

import csv
import datetime
import sys
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
    """Replaces the rows of the same checks, keeps the others, and writes the file sorted by check."""
    merged = {row.check: row for row in (*read(path), *rows)}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(merged[name]) for name in sorted(merged))


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
    """Progress on a terminal, ``kill  120 of 300, 1 failed``; elsewhere nothing but what `say` is told."""

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total = name, total
        self._shown = sys.stderr.isatty()

    def step(self, done: int, failed: int) -> None:
        """Redraw the line."""
        if self._shown:
            sys.stderr.write(f"\r{self._name}  {done:,} of {self._total:,}, {failed} failed\x1b[K")
            sys.stderr.flush()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
        sys.stderr.write(f"{self._name}: {text}\n")
        sys.stderr.flush()
