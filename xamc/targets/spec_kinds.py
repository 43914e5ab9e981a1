"""What a key's value may be: checked against a parsed value, described in messages, and written as JSON Schema."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

KeyPath = tuple[str | int, ...]
RawText = Callable[[KeyPath], str | None]

#: Words that YAML 1.1 reads as booleans and YAML 1.2 does not.
YAML_11_TRUE = frozenset({"yes", "on", "y"})
YAML_11_FALSE = frozenset({"no", "off", "n"})


@dataclass(frozen=True)
class Mismatch:
    """A value that its key does not take; `path` may point into a list."""

    path: KeyPath
    code: str
    message: str
    fix: str


class Kind(ABC):
    """A set of values."""

    @abstractmethod
    def __str__(self) -> str:
        """The kind in words, as in 'expected an integer'."""

    @abstractmethod
    def read(self, value: Any, path: KeyPath, raw: RawText, problems: list[Mismatch]) -> Any:
        """The value as its key takes it; appends to `problems` what is wrong with it. Never sees None."""

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """The kind as JSON Schema."""

    def wrong(self, value: Any, path: KeyPath, problems: list[Mismatch], fix: str = "") -> None:
        """Notes that the value's type is wrong."""
        problems.append(Mismatch(path, "E1022", f"expected {self}, got {describe(value)}", fix or f"write {self}"))


def describe(value: Any) -> str:
    """A value in words, short enough for a message."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True)
class Text(Kind):
    """A string; an unquoted number or boolean is taken as it is written, so that version 4.40 stays 4.40."""

    def __str__(self) -> str:
        return "a string"

    def read(self, value: Any, path: KeyPath, raw: RawText, problems: list[Mismatch]) -> Any:
        text = value if isinstance(value, str) else raw(path)
        if text is None:
            self.wrong(value, path, problems)
        return text

    def schema(self) -> dict[str, Any]:
        return {"type": ["string", "number", "boolean"]}


@dataclass(frozen=True)
class Bool(Kind):
    """true or false."""

    def __str__(self) -> str:
        return "true or false"

    def read(self, value: Any, path: KeyPath, raw: RawText, problems: list[Mismatch]) -> Any:
        if isinstance(value, bool):
            return value
        word = value.lower() if isinstance(value, str) else None
        if word in YAML_11_TRUE | YAML_11_FALSE:
            meant = "true" if word in YAML_11_TRUE else "false"
            message = f"expected true or false, got the word {value!r}, which only YAML 1.1 reads as {meant}"
            problems.append(Mismatch(path, "E1026", message, f"write {meant}"))
        else:
            self.wrong(value, path, problems)
        return None

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Int(Kind):
    """An integer within bounds, both inclusive."""

    minimum: int | None = None
    maximum: int | None = None

    def __str__(self) -> str:
        if self.minimum is not None and self.maximum is not None:
            return f"an integer from {self.minimum} to {self.maximum}"
        return "an integer" if self.minimum is None else f"an integer of at least {self.minimum}"

    def read(self, value: Any, path: KeyPath, raw: RawText, problems: list[Mismatch]) -> Any:
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # 1e3 and 512.0 are integers to YAML's users and to JSON Schema
        if isinstance(value, bool) or not isinstance(value, int):
            digits = value.replace("_", "") if isinstance(value, str) else ""
            plain = digits.lstrip("0") or "0"
            fix = f"write {plain} without quotes, underscores or leading zeros" if _is_digits(digits) else ""
            self.wrong(value, path, problems, fix)
        elif (self.minimum is not None and value < self.minimum) or (self.maximum is not None and value > self.maximum):
            problems.append(Mismatch(path, "E1025", f"expected {self}, got {value}", f"write {self}"))
        return value

    def schema(self) -> dict[str, Any]:
        bounds = {"minimum": self.minimum, "maximum": self.maximum}
        return {"type": "integer"} | {name: bound for name, bound in bounds.items() if bound is not None}


@dataclass(frozen=True)
class Number(Kind):
    """A finite number."""

    def __str__(self) -> str:
        return "a number"

    def read(self, value: Any, path: KeyPath, raw: RawText, problems: list[Mismatch]) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.wrong(value, path, problems)
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "number"}


@dataclass(frozen=True)
class OneOf(Kind):
    """One of a few words or integers."""

    allowed: tuple[str | int, ...]

    def __str__(self) -> str:
        words = [str(word) for word in self.allowed]
        return " or ".join(words) if len(words) < 3 else f"one of {', '.join(words)}"

    def read(self, value: Any, path: KeyPath, raw: RawText, problems: list[Mismatch]) -> Any:
        if isinstance(value, bool):
            # A YAML 1.1 reader (PyYAML, for specs that come as a mapping) turns `off` into False.
            words = YAML_11_TRUE if value else YAML_11_FALSE
            word = next((word for word in words if word in self.allowed), None) if raw(path) is None else None
            if word is not None:
                return word
        elif isinstance(value, str | int | float) and value in self.allowed:
            # 32.0 is 32, as in JSON
            return int(value) if isinstance(value, float) else value
        if isinstance(value, dict | list):
            self.wrong(value, path, problems)
            return None
        words_allowed = [word for word in self.allowed if isinstance(word, str)]
        near = get_close_matches(str(value).lower(), words_allowed, 1)
        fix = f"did you mean {near[0]}?" if near else "write one of these"
        problems.append(Mismatch(path, "E1023", f"expected {self}, got {describe(value)}", fix))
        return None

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.allowed)}


@dataclass(frozen=True)
class ListOf(Kind):
    """A list of one kind."""

    item: Kind

    def __str__(self) -> str:
        plural = {"a string": "strings", "an integer": "integers", "a number": "numbers", "a mapping": "mappings"}
        return f"a list of {plural.get(str(self.item), 'values: each ' + str(self.item))}"

    def read(self, value: Any, path: KeyPath, raw: RawText, problems: list[Mismatch]) -> Any:
        if not isinstance(value, list):
            self.wrong(value, path, problems)
            return None
        items = []
        for index, item in enumerate(value):
            at = (*path, index)
            if item is None:
                self.item.wrong("null", at, problems)
            else:
                items.append(self.item.read(item, at, raw, problems))
        return items

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.item.schema()}


@dataclass(frozen=True)
class MapOf(Kind):
    """A mapping whose keys are the user's."""

    item: Kind

    def __str__(self) -> str:
        return "a mapping"

    def read(self, value: Any, path: KeyPath, raw: RawText, problems: list[Mismatch]) -> Any:
        if not isinstance(value, dict):
            self.wrong(value, path, problems)
            return None
        return {
            key: self.item.read(item, (*path, key), raw, problems) for key, item in value.items() if item is not None
        }

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": nullable(self.item.schema())}


@dataclass(frozen=True)
class Shape(Kind):
    """Shape of a graph input: `[1, 3, 224, 224]`, or lists of sizes: `[[512], [2048]]`, `[[512], []]`."""

    def __str__(self) -> str:
        return "a list of sizes, or a list of lists of sizes"

    def read(self, value: Any, path: KeyPath, raw: RawText, problems: list[Mismatch]) -> Any:
        if not isinstance(value, list) or len({isinstance(item, list) for item in value}) > 1:
            self.wrong(value, path, problems, "write for example [[512], [2048]]")
            return None
        size = Int(-1)
        kind = ListOf(size) if value and isinstance(value[0], list) else size
        return [kind.read(item, (*path, index), raw, problems) for index, item in enumerate(value)]

    def schema(self) -> dict[str, Any]:
        sizes = {"type": "array", "items": {"type": "integer", "minimum": -1}}
        return {"anyOf": [sizes, {"type": "array", "items": sizes}]}


@dataclass(frozen=True)
class Anything(Kind):
    """Any value."""

    def __str__(self) -> str:
        return "any value"

    def read(self, value: Any, path: KeyPath, raw: RawText, problems: list[Mismatch]) -> Any:
        return value

    def schema(self) -> dict[str, Any]:
        return {}


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, with null allowed: an empty value in YAML means the default."""
    if not schema:
        return schema
    kind = schema.get("type")
    if isinstance(kind, str):
        return schema | {"type": [kind, "null"]}
    if isinstance(kind, list):
        return schema | {"type": [*kind, "null"]}
    if "enum" in schema:
        return schema | {"enum": [*schema["enum"], None]}
    return {"anyOf": [*schema["anyOf"], {"type": "null"}]}


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()
