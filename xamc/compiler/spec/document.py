"""YAML with positions: a SafeLoader that refuses what a build file does not need, and names the location.

Refused: tags and merge keys (E1005), duplicate keys (E1006), aliases that expand without bound and more than 20,000
values (E1007), depth over 32 (E1008), several documents (E1009), keys that are no strings (E1011), numbers beyond
64 bits and control characters (E1012), text that is not UTF-8 (E1002), more than 1 MiB (E1003).

Plain scalars are read by YAML 1.2's core schema: only `true` and `false` are booleans, so that `off`, `yes` and `on`
stay the words they look like, `1e-5` is a number, and dates, `12:30` and `1_000` stay strings.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISCHR, S_ISFIFO, S_ISSOCK
from typing import Any

import yaml
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from xamc.compiler.spec.errors import SpecErrors
from xamc.errors import InputError, Location, XamcError
from xamc.targets.spec_kinds import KeyPath

#: Stands for a path in locations that point into stdin's text.
STDIN = Path("<stdin>")
MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 20_000  # keys, values and list items; the largest build files in the field hold a few hundred
MAX_ALIASED_VALUES = 10_000

_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Entry:
    """One value of a document.

    Attributes:
        at: location of the value.
        key_at: location of its key; the value's own location for list items and the top level.
        raw: a plain scalar's text as written (`4.40` where the value is 4.4); None otherwise.
    """

    at: Location
    key_at: Location
    raw: str | None = None


@dataclass
class Document:
    """A parsed YAML text.

    Attributes:
        values: mappings, lists and scalars; None where a value was refused.
        entries: key path → entry, for every value; empty for a document that came as a mapping.
        errors: refusals that left the rest readable.
        refused: key paths of refused values, which no later check should judge.
    """

    values: Any
    entries: dict[KeyPath, Entry] = field(default_factory=dict)
    errors: list[XamcError] = field(default_factory=list)
    refused: set[KeyPath] = field(default_factory=set)

    def at(self, path: KeyPath, note: str = "", *, key: bool = False) -> tuple[Location, ...]:
        """Location of a value, or of its key; of the nearest parent that has one, when the value is not written."""
        for length in range(len(path), -1, -1):
            entry = self.entries.get(path[:length])
            if entry is not None:
                location = entry.key_at if key or length < len(path) else entry.at
                return (Location(location.path, location.line, location.column, location.length, note),)
        return ()

    def raw(self, path: KeyPath) -> str | None:
        """A plain scalar's text as written."""
        entry = self.entries.get(path)
        return entry.raw if entry is not None else None


def dotted(path: KeyPath) -> str:
    """`('a', 'b', 0)` as `a.b[0]`; names that hold a dot are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = f'"{part}"' if "." in part else part
            text += f".{name}" if text else name
    return text


def is_regular(path: Path) -> bool:
    """Whether a spec's path is a file with a folder around it: not stdin (``-``), a pipe, or a terminal."""
    try:
        return str(path) != "-" and not any(kind(path.stat().st_mode) for kind in (S_ISFIFO, S_ISCHR, S_ISSOCK))
    except (OSError, ValueError):
        return True  # reading it will say what is wrong


def read_text(path: Path) -> str:
    """The text of a spec file, or of stdin for ``-``. A pipe can be read once, so this is called once.

    Raises:
        InputError: E1001 unreadable, E1002 not UTF-8, E1003 over 1 MiB.
    """
    try:
        if str(path) == "-":
            path = STDIN
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InputError(
            "E1001", f"cannot read the spec {path}: {reason}", "give the path of a readable YAML file"
        ) from error
    if len(data) > MAX_BYTES:
        raise InputError(
            "E1003", f"{path} is larger than 1 MiB", "a build file is a page of YAML; is this the right file?"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            "E1002",
            f"{path} is not UTF-8: byte 0x{data[error.start]:02x} in line {line}",
            "save the file as UTF-8",
            (Location(path, line, 1),),
        ) from error


def parse(text: str, path: Path) -> Document:
    """Parses one YAML document.

    Args:
        text: the document.
        path: what locations call it.

    Raises:
        SpecErrors: when nothing of the text can be used: a syntax error, several documents, too deep, alias bomb.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise _fatal("E1003", f"{path} is larger than 1 MiB", "shorten it", path, text)
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except _TooDeepError as error:
        raise _fatal(
            "E1008", f"nested deeper than {MAX_DEPTH} levels", "flatten the file", path, text, _spot(path, error.mark)
        ) from error
    except _TooManyError as error:
        fix = "a build file is a page of YAML; is this the right file?"
        message = f"more than {MAX_VALUES:,} values"
        raise _fatal("E1007", message, fix, path, text, _spot(path, error.mark)) from error
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, path, text) from error
    except yaml.reader.ReaderError as error:
        position = error.position if isinstance(error.position, int) else 0
        line = text.count("\n", 0, position) + 1
        column = position - (text.rfind("\n", 0, position) + 1) + 1
        raise _fatal(
            "E1002",
            f"character U+{_code_point(error.character):04X} is not allowed in YAML",
            "remove the control character",
            path,
            text,
            Location(path, line, column),
        ) from error
    document = Document(None)
    if node is not None:
        document.values = _Converter(document, path, text, loader).convert(node, ())
    return document


def from_mapping(values: Any) -> Document:
    """A document from Python data: paths become strings, tuples lists; the data are copied.

    Raises:
        SpecErrors: E1008 too deep (or a mapping that holds itself), E1011 a key that is no string, E1012 a bad value.
    """
    document = Document(None)
    document.values = _copy(values, (), document)
    return document


class _TooDeepError(Exception):
    def __init__(self, mark: yaml.Mark) -> None:
        self.mark = mark


class _TooManyError(Exception):
    def __init__(self, mark: yaml.Mark) -> None:
        self.mark = mark


class _Loader(yaml.SafeLoader):
    """Composes nodes with YAML 1.2's scalars, and remembers tags and the number of nodes."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - the base class's attribute

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.node_count = 0
        self.tags: dict[int, tuple[str, yaml.Mark]] = {}  # id(node) → its explicit tag

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if self.depth > MAX_DEPTH:
            raise _TooDeepError(event.start_mark)
        if self.node_count > MAX_VALUES:
            raise _TooManyError(event.start_mark)
        tag = None if isinstance(event, AliasEvent) else event.tag
        if tag is not None:
            event.tag = None  # composed like an untagged node; the converter refuses it
            event.implicit = (True, True) if isinstance(event, yaml.ScalarEvent) else True
        self.depth += 1
        try:
            node = super().compose_node(parent, index)
        finally:
            self.depth -= 1
        if tag is not None and node is not None:
            self.tags[id(node)] = (tag, event.start_mark)
        self.node_count += 1
        return node


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})\Z"), _first)


class _Converter:
    """Turns composed nodes into plain values, and notes locations and refusals."""

    def __init__(self, document: Document, path: Path, text: str, loader: _Loader) -> None:
        self.document = document
        self.path = path
        self.text = text
        self.lines = text.splitlines()
        self.tags = loader.tags
        self.budget = loader.node_count + MAX_ALIASED_VALUES

    def convert(self, node: Node, at: KeyPath, key_at: Location | None = None) -> Any:
        self.budget -= 1
        location = self.locate(node)
        if self.budget < 0:
            raise _fatal(
                "E1007", "aliases expand to too many values", "write the values out", self.path, self.text, location
            )
        if len(at) > MAX_DEPTH:
            raise _fatal(
                "E1008", f"nested deeper than {MAX_DEPTH} levels with aliases expanded", "write the values out",
                self.path, self.text, location,
            )  # fmt: skip
        raw = node.value if isinstance(node, ScalarNode) and node.style is None else None
        self.document.entries[at] = Entry(location, key_at or location, raw)
        if id(node) in self.tags:
            tag, mark = self.tags[id(node)]
            location = Location(self.path, mark.line + 1, mark.column + 1, max(1, len(tag)))
            self.refuse(
                "E1005", at, f"YAML tag {tag} on {dotted(at) or 'the document'}", "write the plain value", location
            )
            return None
        if isinstance(node, MappingNode):
            return self.mapping(node, at)
        if isinstance(node, SequenceNode):
            return [self.convert(item, (*at, index)) for index, item in enumerate(node.value)]
        return self.scalar(node, at, location)

    def mapping(self, node: MappingNode, at: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        first: dict[str, Location] = {}
        for key_node, value_node in node.value:
            key_at = self.locate(key_node)
            inside = f" in {dotted(at)}" if at else ""
            if not isinstance(key_node, ScalarNode) or id(key_node) in self.tags:
                self.refuse("E1011", at, f"a key{inside} that is not a plain name", "use names as keys", key_at)
                continue
            key = key_node.value
            if key == "<<" and key_node.style is None:
                self.refuse("E1005", (*at, key), f"YAML merge key <<{inside}", "write the keys out", key_at)
            elif bad := _bad_character(key):
                self.refuse("E1012", (*at, key), f"{bad} in a key{inside}", "remove it", key_at)
            elif key in values:
                again = Location(self.path, key_at.line, key_at.column, key_at.length, "again")
                before = Location(self.path, first[key].line, first[key].column, first[key].length, "first")
                self.document.errors.append(
                    InputError("E1006", f"duplicate key {dotted((*at, key))}", "keep one of the two", (again, before))
                )
            else:
                first[key] = key_at
                values[key] = self.convert(value_node, (*at, key), key_at)
        return values

    def scalar(self, node: Node, at: KeyPath, location: Location) -> Any:
        text: str = node.value
        tag = node.tag.removeprefix(_TAG)
        if tag == "null":
            return None
        if tag == "bool":
            return text.lower() == "true"
        if tag == "int":
            number = _integer(text)
            if number is None:
                self.refuse("E1012", at, f"{dotted(at)}: an integer beyond 64 bits", "use a smaller number", location)
            return number
        if tag == "float":
            return float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", text.lower()))
        if bad := _bad_character(text):
            self.refuse("E1012", at, f"{dotted(at)}: {bad}", "remove it", location)
            return None
        return text

    def locate(self, node: Node) -> Location:
        """A node's first line, underlined as far as it belongs to the node."""
        start, end = node.start_mark, node.end_mark
        line = self.lines[start.line] if start.line < len(self.lines) else ""
        stop = end.column if end.line == start.line else len(line.split(" #")[0].rstrip())
        return Location(self.path, start.line + 1, start.column + 1, max(1, stop - start.column))

    def refuse(self, code: str, at: KeyPath, message: str, fix: str, location: Location) -> None:
        self.document.errors.append(InputError(code, message, fix, (location,)))
        self.document.refused.add(at)


def _copy(value: Any, at: KeyPath, document: Document) -> Any:
    where = dotted(at) or "the spec"
    if len(at) > MAX_DEPTH:
        raise SpecErrors([InputError("E1008", f"{where}: nested deeper than {MAX_DEPTH} levels", "flatten it")])
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or _bad_character(key):
                raise SpecErrors(
                    [InputError("E1011", f"{where}: key {key!r} is not a plain name", "use strings as keys")]
                )
        return {key: _copy(item, (*at, key), document) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(item, (*at, index), document) for index, item in enumerate(value)]
    if isinstance(value, Path):
        value = str(value)
    bad = _bad_character(value) if isinstance(value, str) else None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        bad = "an integer beyond 64 bits"
    if value is not None and not isinstance(value, str | bool | int | float):
        bad = f"a value of type {type(value).__name__}, which YAML cannot hold"
    if bad:
        document.errors.append(InputError("E1012", f"{where}: {bad}", "use plain Python data"))
        document.refused.add(at)
        return None
    return value


def _integer(text: str) -> int | None:
    """A YAML 1.2 integer; None when it does not fit in 64 bits."""
    if len(text) > 66:
        return None
    number = int(text, 0)
    return number if -(2**63) <= number < 2**63 else None


def _bad_character(text: str) -> str | None:
    for character in text:
        code = ord(character)
        if (code < 0x20 and character not in "\n\t\r") or code == 0x7F or 0xD800 <= code <= 0xDFFF:
            return f"the character U+{code:04X}, which no name or path can hold"
    return None


def _code_point(character: Any) -> int:
    return ord(character) if isinstance(character, str) and len(character) == 1 else int(character)


def _spot(path: Path, mark: yaml.Mark | None) -> Location | None:
    return Location(path, mark.line + 1, mark.column + 1) if mark is not None else None


def _syntax_error(error: yaml.MarkedYAMLError, path: Path, text: str) -> SpecErrors:
    problem = error.problem or "not valid YAML"
    mark = error.problem_mark or error.context_mark
    if error.context == "expected a single document in the stream":
        fix = "keep one document: remove the --- line and what follows it"
        return _fatal("E1009", "more than one YAML document", fix, path, text, _spot(path, mark))
    fix = "check indentation, colons and quotes near this place"
    if "'\\t'" in problem:
        fix = "indent with spaces; YAML does not allow tabs there"
    elif "undefined alias" in problem:
        fix = "define the anchor (&name) first, or quote a value that begins with *"
    elif problem.startswith("mapping values are not allowed"):
        fix = "quote a value that holds a colon and a space, or put the key on its own line"
    context = f" {error.context}" if error.context else ""
    return _fatal("E1004", f"YAML syntax:{context} {problem}".replace("\n", " "), fix, path, text, _spot(path, mark))


def _fatal(code: str, message: str, fix: str, path: Path, text: str, location: Location | None = None) -> SpecErrors:
    return SpecErrors([InputError(code, message, fix, (location,) if location else ())], {path: text})
