"""Where commands print: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDE = 10_000  # columns of a pipe or a file, which has no edge


def result_console() -> Console:
    """For results on stdout: colours and folding on a terminal only, long lines kept whole elsewhere."""
    width = None if sys.stdout.isatty() else _WIDE
    return Console(highlight=False, emoji=False, markup=False, soft_wrap=width is not None, width=width)


def message_console() -> Console:
    """For messages on stderr, so that stdout stays clean for what a script reads."""
    return Console(stderr=True, highlight=False, emoji=False, markup=False)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def print_table(console: Console, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A plain table: no frame, columns aligned, cells folded where the terminal ends."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(header))
    for name in header:
        table.add_column(name, header_style="bold", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table, soft_wrap=False)
