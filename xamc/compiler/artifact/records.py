"""Frozen dataclasses to and from plain JSON values, checked field by field.

Supported field types: str, int, float, bool, Any, None, Literal, X | None, tuple[T, ...], Mapping[str, T] and
dataclasses of these. Unknown and missing keys are errors: a manifest is written by one program and read by another,
possibly years apart, and a silently dropped key would be a silently dropped requirement.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class RecordError(ValueError):
    """A JSON value does not fit its record; `where` is the key path, such as ``weights.tensors[3].shape``."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where or 'top level'}: {problem}")
        self.where = where
        self.problem = problem


def to_json(value: Any) -> Any:
    """The plain JSON value of a record: dataclasses become objects, tuples become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    """The types of a record's fields; evaluating them takes longer than reading a whole manifest does otherwise."""
    if cls not in _HINTS:
        _HINTS[cls] = get_type_hints(cls)
    return _HINTS[cls]


def from_json(cls: type[T], value: Any, where: str = "") -> T:
    """Build the dataclass `cls` from a parsed JSON object.

    Raises:
        RecordError: a key is missing, unknown, or of another type than the field's.
    """
    if not isinstance(value, dict):
        raise RecordError(where, f"expected an object, found {_kind(value)}")
    hints = _hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise RecordError(_join(where, unknown[0]), "unknown key")
    arguments: dict[str, Any] = {}
    for name, field in fields.items():
        if name in value:
            arguments[name] = _decode(hints[name], value[name], _join(where, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise RecordError(_join(where, name), "missing key")
    try:
        return cls(**arguments)
    except ValueError as error:
        if isinstance(error, RecordError):
            raise RecordError(_join(where, error.where), error.problem) from None
        raise RecordError(where, str(error)) from None


def _decode(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        options = get_args(hint)
        if value is None and type(None) in options:
            return None
        (only,) = (option for option in options if option is not type(None))
        return _decode(only, value, where)
    if origin is Literal:
        if value not in get_args(hint):
            raise RecordError(where, f"expected one of {', '.join(map(repr, get_args(hint)))}, found {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise RecordError(where, f"expected a list, found {_kind(value)}")
        item = get_args(hint)[0]
        return tuple(_decode(item, element, f"{where}[{index}]") for index, element in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise RecordError(where, f"expected an object, found {_kind(value)}")
        item = get_args(hint)[1]
        return {key: _decode(item, element, _join(where, key)) for key, element in value.items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_json(hint, value, where)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise RecordError(where, f"expected {hint.__name__}, found {_kind(value)}")
    return value


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where and name else where or name


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
