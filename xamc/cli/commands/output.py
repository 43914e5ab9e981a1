"""Where commands print: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xamc.cli.render import CONTROL, printable

_WIDE = 10_000  # columns of a pipe or a file, which has no edge
_READABLE = 100  # columns of prose
_WORD = 24  # columns that a word may ask for; longer ones are paths and names, which are cut


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
    # Rich takes a width at its word only with a height: a dumb terminal has 80 columns otherwise
    height = None if width is None else 25
    return _Console(highlight=False, emoji=False, markup=False, soft_wrap=width is not None, width=width, height=height)


def message_console() -> Console:
    """For messages on stderr, so that stdout stays clean for what a script reads."""
    return _Console(stderr=True, highlight=False, emoji=False, markup=False)


def print_json(value: Any) -> None:
    """One JSON document on stdout; what a terminal acts on is escaped in it."""
    text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
    sys.stdout.write(CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")


def _is_screen(console: Console) -> bool:
    """Whether lines end at an edge. Rich calls a pipe a terminal where FORCE_COLOR asks for colours in it."""
    return console.is_terminal and console.width < _WIDE


def print_text(console: Console, text: str) -> None:
    """Paragraphs of prose, folded between words where the terminal ends, and at 100 columns at the latest."""
    width = min(_READABLE, console.width)
    for number, paragraph in enumerate(text.strip().split("\n\n")):
        if number:
            console.print()
        lines = [paragraph] if "\n " in paragraph else textwrap.wrap(" ".join(paragraph.split()), width)
        for line in lines:
            console.print(line, soft_wrap=True)


def print_line(console: Console, text: str, indent: int) -> None:
    """A line; a terminal that is narrower gets the rest below it, between words and `indent` columns to the right."""
    folds = _is_screen(console) and cell_len(text) > console.width
    lines = textwrap.wrap(text, console.width, subsequent_indent=" " * indent) if folds else [text]
    for line in lines:
        console.print(line, soft_wrap=True)


def print_table(console: Console, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A plain table: no frame, columns aligned, cells folded between words where the terminal ends.

    In a pipe every row is one line, without spaces at its end.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(header))
    for index, name in enumerate(header):
        words = [word for text in (name, *(row[index] for row in cells)) for word in text.split()]
        narrowest = min(_WORD, max(map(cell_len, words), default=1))
        table.add_column(name, header_style="bold", overflow="fold", min_width=narrowest)
    for row in cells:
        table.add_row(*map(Text, row))
    if _is_screen(console):
        console.print(table, soft_wrap=False)
        return
    with console.capture() as captured:
        console.print(table, soft_wrap=False)
    for line in captured.get().splitlines():
        console.print(line.rstrip(), soft_wrap=True)
