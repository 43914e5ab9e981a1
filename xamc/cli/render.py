"""Renders errors and warnings for people and for scripts.

An error is one screen that a person can act on: location, code, message, the source lines with what is wrong
underlined, details, and the fix:

    build.yaml:9:12  E1042  quantize.type and backend.dtype disagree
       9 |     type: w8a16_gptq
         |           ^^^^^^^^^^ stores weights as int8
      12 |   dtype: fp16
         |          ^^^^ asks for fp16 weights
    fix: set backend.dtype: int8, or remove frontend.quantize      (xamc explain E1042)
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from xamc.cli.hints_zh import hint, is_chinese
from xamc.compiler.spec.problems import Problem, problems_of
from xamc.errors import Location, XamcError

Sources = Mapping[Path, str]

MAX_LINE = 160  # characters of a source line that are shown
MAX_READ = 4 << 20  # bytes of a file that are read for its lines

#: What a terminal could act on: escape sequences in a user's file must not reach it.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def render(problems: BaseException | Problem | Sequence[Problem], sources: Sources | None = None) -> Text:
    """Errors and warnings as styled text; `.plain` of the result is the plain form.

    Args:
        problems: an error, a group of them, a warning, or several.
        sources: path → text, for locations whose text is not on the disk.
    """
    known: dict[Path, str] = dict(sources or {})
    if isinstance(problems, XamcError):
        known |= problems.sources
    several = problems if isinstance(problems, Sequence) else problems_of(problems)
    reader = _Sources(known)
    blocks = [_block(problem, reader) for problem in several]
    if len(several) > 1 and (count := sum(isinstance(problem, XamcError) for problem in several)) > 1:
        blocks.append(Text(f"{count} errors", style="bold"))
    return Text("\n\n").join(blocks)


def print_problems(
    problems: BaseException | Problem | Sequence[Problem], sources: Sources | None = None, file: IO[str] | None = None
) -> None:
    """Prints errors or warnings to stderr (or `file`): in colours on a terminal, as plain text elsewhere."""
    console = Console(file=file, stderr=file is None, highlight=False, soft_wrap=True, emoji=False, markup=False)
    console.print(render(problems, sources))


class _Sources:
    """Lines of source texts, read once."""

    def __init__(self, known: Mapping[Path, str]) -> None:
        self.lines = {path: text.splitlines() for path, text in known.items()}

    def line(self, path: Path, number: int) -> str | None:
        """One line, counted from 1; None when it cannot be read."""
        if path not in self.lines:
            self.lines[path] = self._read(path)
        lines = self.lines[path]
        return lines[number - 1] if 1 <= number <= len(lines) else None

    @staticmethod
    def _read(path: Path) -> list[str]:
        try:
            if not path.is_file():
                return []
            with path.open("rb") as file:
                return file.read(MAX_READ).decode("utf-8-sig", "replace").splitlines()
        except (OSError, ValueError):
            return []  # the location is still named; only the line is not shown


def _block(problem: Problem, sources: _Sources) -> Text:
    is_error = isinstance(problem, XamcError)
    style = "red" if is_error else "yellow"
    text = Text()
    if problem.locations:
        text.append(f"{_location(problem.locations[0])}  ", style="bold")
    text.append(problem.code, style=f"bold {style}")
    text.append(f"  {'' if is_error else 'warning: '}{_clean(problem.message)}")
    shown = problem.locations[0].path if problem.locations else None
    groups = list(_by_line(problem.locations))
    gutter = max([4, *(len(str(locations[0].line)) + 2 for locations in groups)])
    for locations in groups:
        line = sources.line(locations[0].path, locations[0].line)
        notes = "; ".join(location.note for location in locations if location.note) if line is None else ""
        if locations[0].path != shown or notes:
            text.append(f"\n{' ' * gutter} at {_location(locations[0])}{': ' if notes else ''}{_clean(notes)}")
            shown = locations[0].path
        if line is not None:
            _snippet(text, line, locations, gutter, style)
    details = problem.details if isinstance(problem, XamcError) else ()
    for detail in details:
        for part in detail.splitlines() or [""]:
            text.append(f"\n  {_clean(part)}", style="dim")
    text.append("\n")
    if problem.fix:
        text.append("fix: ", style="bold green")
        text.append(f"{_clean(problem.fix)}      ")
    text.append(f"(xamc explain {problem.code})", style="dim")
    if is_chinese() and (chinese := hint(problem.code)):
        text.append("\n提示：", style="bold green")
        text.append(chinese)
    return text


def _by_line(locations: Iterable[Location]) -> Iterator[list[Location]]:
    """Locations grouped by line, in the order in which a line is first named."""
    groups: dict[tuple[Path, int], list[Location]] = {}
    for location in locations:
        groups.setdefault((location.path, location.line), []).append(location)
    for on_line in groups.values():
        yield sorted(on_line, key=lambda location: location.column)


def _snippet(text: Text, line: str, locations: Sequence[Location], gutter: int, style: str) -> None:
    """Appends a source line and what is underlined in it; a row of carets for each note."""
    start, shown = _crop(line, locations[0])
    text.append(f"\n{locations[0].line:>{gutter}} | ", style="dim")
    text.append(_clean(shown))
    noted = [location for location in locations if location.note]
    rows = [[location] for location in locations] if len(noted) > 1 else [list(locations)]
    for row in rows:
        carets, width = "", 0
        for location in row:
            first = max(0, min(location.column - 1 - start, len(shown)))
            last = max(first + 1, min(first + location.length, len(shown)))
            left = cell_len(_clean(shown[:first]))
            length = max(1, cell_len(_clean(shown[first:last])))
            carets += " " * max(0, left - width) + "^" * length
            width = cell_len(carets)
        note = next((location.note for location in row if location.note), "")
        text.append(f"\n{'':>{gutter}} | ", style="dim")
        text.append(f"{carets} {_clean(note)}".rstrip(), style=style)


def _crop(line: str, location: Location) -> tuple[int, str]:
    """The part of a line around a location, and where it begins."""
    if len(line) <= MAX_LINE:
        return 0, line
    start = max(0, min(location.column - 1 - MAX_LINE // 3, len(line) - MAX_LINE))
    return start, line[start : start + MAX_LINE]


def _location(location: Location) -> str:
    path = str(location.path)
    if location.path.is_absolute():
        relative = os.path.relpath(path)
        path = path if relative.startswith("..") else relative
    return f"{_clean(path)}:{location.line}:{location.column}"


def printable(text: str) -> str:
    """The text with a replacement character for each one that a terminal could act on; lines and tabs stay."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _clean(text: str) -> str:
    """The text without control characters; tabs become one space, so that carets stay below what they mean."""
    return printable(text.replace("\t", " ").replace("\n", " "))
