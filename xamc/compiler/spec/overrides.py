"""`--set key.path=value`: values over those of the file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from xamc.compiler.spec.document import Document, Entry, dotted, parse
from xamc.compiler.spec.errors import SET_PATH, SpecErrors
from xamc.compiler.spec.registry import find, is_section, suggest
from xamc.errors import InputError, Location
from xamc.targets.spec_kinds import Anything, KeyPath, MapOf

_MOST_PARTS = 32  # as deep as a spec may be nested
_PART = re.compile(r'"([^"]+)"|([^."=\s]+)')


def set_text(overrides: Sequence[str]) -> str:
    """The text that locations of `SET_PATH` point into: one argument a line."""
    return "\n".join(" ".join(override.splitlines()) for override in overrides)


def apply_overrides(document: Document, overrides: Sequence[str]) -> None:
    """Sets values in a document; mistakes go to the document's errors.

    Args:
        document: changed in place; its top level has to be a mapping.
        overrides: `key.path=value`, in order. Values are YAML: `4`, `true`, `[[512], [2048]]`, `null` for the default.
            Names that hold a dot are quoted: `frontend.shape."input.1"=[1, 3, 224, 224]`.
    """
    for number, override in enumerate(overrides, 1):
        try:
            _apply(document, override, number)
        except SpecErrors as error:
            document.errors += error.errors
        except InputError as error:
            document.errors.append(error)


def _apply(document: Document, override: str, number: int) -> None:
    whole = Location(SET_PATH, number, 1, max(1, len(override)))
    path, length = _split(override, whole)
    key_at = Location(SET_PATH, number, 1, length)
    if len(path) > _MOST_PARTS or not _is_known(path):
        near = suggest(path[:_MOST_PARTS])
        fix = f"did you mean {near}?" if near else "see docs/spec.md for the keys"
        raise InputError("E1061", f"--set: unknown key {dotted(path[:_MOST_PARTS])}", fix, (key_at,))
    value = _parse_value(override[length + 1 :], number, length + 1)
    section = document.values
    for depth, part in enumerate(path[:-1], 1):
        inner = section.get(part)
        if inner is None:
            inner = section[part] = {}
        if not isinstance(inner, dict):
            message = f"--set: {dotted(path[:depth])} is not a mapping in the spec"
            raise InputError("E1062", message, "correct the spec first", (key_at, *document.at(path[:depth])))
        section = inner
    section[path[-1]] = value.values
    for stale in [at for at in document.entries if at[: len(path)] == path]:
        del document.entries[stale]
    document.refused -= {at for at in document.refused if at[: len(path)] == path}
    for at, entry in value.entries.items():
        document.entries[path + at] = Entry(entry.at, entry.key_at if at else key_at, entry.raw)


def _split(override: str, whole: Location) -> tuple[KeyPath, int]:
    """The key's path, and the length of its text; the character after it is `=`."""
    parts: list[str] = []
    position = 0
    while match := _PART.match(override, position):
        parts.append(match[1] or match[2])
        position = match.end()
        if override[position : position + 1] != ".":
            break
        position += 1
    if not parts or override[position : position + 1] != "=":
        raise InputError("E1060", f"--set {override!r} is not key.path=value", "write --set key.path=value", (whole,))
    return tuple(parts), position


def _is_known(path: KeyPath) -> bool:
    if find(path) is not None or is_section(path):
        return True
    return any((key := find(path[:length])) is not None and isinstance(key.kind, MapOf | Anything)
               for length in range(1, len(path)))  # fmt: skip


def _parse_value(text: str, number: int, offset: int) -> Document:
    """Parses a value, with locations in the `--set` argument."""

    def shift(location: Location) -> Location:
        if "\n" in text:
            return Location(SET_PATH, number, offset + 1, len(text), location.note)
        return Location(SET_PATH, number, location.column + offset, location.length, location.note)

    try:
        value = parse(text, SET_PATH)
    except SpecErrors as error:
        first = error.errors[0]
        at = tuple(shift(location) for location in first.locations)
        raise InputError("E1063", f"--set: the value is not YAML: {first.message}", first.fix, at) from error
    if value.errors:
        raise SpecErrors([
            InputError(error.code, f"--set: {error.message}", error.fix, tuple(map(shift, error.locations)))
            for error in value.errors
        ])  # fmt: skip
    entries: dict[KeyPath, Entry] = {
        at: Entry(shift(entry.at), shift(entry.key_at), entry.raw) for at, entry in value.entries.items()
    }
    values: Any = value.values
    return Document(values, entries)
