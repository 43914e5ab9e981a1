"""Where commands print: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from xamc.compiler.render import CONTROL, printable

_WIDE = 10_000  # columns of a pipe or a file, which has no edge


class _Console(Console):
    """Shows what terminals act on as replacement characters: names come out of users' files and artifacts."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Like Rich's, for text; tables come from `print_table`."""
        super().print(*map(_printable, objects), **options)


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Text):
        value.plain = printable(value.plain)  # of the same length, so that styles stay where they are
    return value


def result_console() -> Console:
    """For results on stdout: colours and folding on a terminal only, long lines kept whole elsewhere."""
    width = None if sys.stdout.isatty() else _WIDE
    return _Console(highlight=False, emoji=False, markup=False, soft_wrap=width is not None, width=width)


def message_console() -> Console:
    """For messages on stderr, so that stdout stays clean for what a script reads."""
    return _Console(stderr=True, highlight=False, emoji=False, markup=False)


def print_json(value: Any) -> None:
    """One JSON document on stdout; what a terminal acts on is escaped in it."""
    text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
    sys.stdout.write(CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")


def print_table(console: Console, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A plain table: no frame, columns aligned, cells folded where the terminal ends."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(header))
    for name in header:
        table.add_column(name, header_style="bold", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table, soft_wrap=False)
