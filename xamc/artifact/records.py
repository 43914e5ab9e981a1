"""Frozen dataclasses to and from plain JSON values, checked field by field.

Supported field types: str, int, float, bool, Any, None, Literal, X | None, tuple[T, ...], Mapping[str, T] and
dataclasses of these. Unknown and missing keys are errors: a manifest is written by one program and read by another,
possibly years apart, and a silently dropped key would be a silently dropped requirement.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class RecordError(ValueError):
    """A JSON value does not fit its record; `where` is the key path, such as ``weights.tensors[3].shape``."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where or 'top level'}: {problem}")
        self.where = where
        self.problem = problem

    def below(self, place: str) -> RecordError:
        """The same of the value that has this one at `place`, a key or ``[index]``."""
        dot = "." if self.where and not self.where.startswith("[") else ""
        return RecordError(f"{place}{dot}{self.where}", self.problem)


def to_json(value: Any) -> Any:
    """The plain JSON value of a record: dataclasses become objects, tuples become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def from_json(cls: type[T], value: Any) -> T:
    """Build the dataclass `cls` from a parsed JSON object.

    Raises:
        RecordError: a key is missing, unknown, or of another type than the field's.
    """
    kind: Any = cls  # a class can be hashed whatever its instances can, which mypy does not see
    record: T = _decoder(kind)(value)
    return record


Decoder = Callable[[Any], Any]
"""Makes a field's value of a JSON value; the places that its errors name are relative to that value."""


@functools.cache
def _decoder(hint: Any) -> Decoder:
    """The decoder of a type. Looking at types takes longer than decoding does, so each is looked at once."""
    if hint is Any:
        return lambda value: value
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _record_decoder(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (only,) = (option for option in arguments if option is not types.NoneType)
        decode = _decoder(only)
        return lambda value: None if value is None else decode(value)
    if origin is Literal:
        return _literal_decoder(arguments)
    if origin is tuple:
        return _list_decoder(_decoder(arguments[0]))
    if origin is not None and issubclass(origin, Mapping):
        return _object_decoder(_decoder(arguments[1]))
    return _scalar_decoder(hint)


def _record_decoder(cls: type) -> Decoder:
    hints = get_type_hints(cls)
    decoders = {field.name: _decoder(hints[field.name]) for field in dataclasses.fields(cls)}
    no_default = (dataclasses.MISSING, dataclasses.MISSING)
    required = {f.name for f in dataclasses.fields(cls) if (f.default, f.default_factory) == no_default}

    def decode(value: Any) -> Any:
        if not isinstance(value, dict):
            raise RecordError("", f"expected an object, found {_kind(value)}")
        if not value.keys() <= decoders.keys():
            raise RecordError(min(value.keys() - decoders.keys()), "unknown key")
        arguments: dict[str, Any] = {}
        for name, decode_field in decoders.items():
            if name in value:
                try:
                    arguments[name] = decode_field(value[name])
                except RecordError as error:
                    raise error.below(name) from None
            elif name in required:
                raise RecordError(name, "missing key")
        try:
            return cls(**arguments)
        except RecordError:
            raise
        except ValueError as error:
            raise RecordError("", str(error)) from None

    return decode


def _literal_decoder(choices: tuple[Any, ...]) -> Decoder:
    def decode(value: Any) -> Any:
        if value not in choices:
            raise RecordError("", f"expected one of {', '.join(map(repr, choices))}, found {value!r}")
        return value

    return decode


def _list_decoder(item: Decoder) -> Decoder:
    def decode(value: Any) -> Any:
        if not isinstance(value, list):
            raise RecordError("", f"expected a list, found {_kind(value)}")
        decoded: list[Any] = []
        try:
            for element in value:
                decoded.append(item(element))
        except RecordError as error:
            raise error.below(f"[{len(decoded)}]") from None
        return tuple(decoded)

    return decode


def _object_decoder(item: Decoder) -> Decoder:
    def decode(value: Any) -> Any:
        if not isinstance(value, dict):
            raise RecordError("", f"expected an object, found {_kind(value)}")
        decoded: dict[str, Any] = {}
        for key, element in value.items():
            try:
                decoded[key] = item(element)
            except RecordError as error:
                raise error.below(key) from None
        return decoded

    return decode


def _scalar_decoder(cls: type) -> Decoder:
    def decode(value: Any) -> Any:
        if type(value) is cls:
            return value
        if cls is float and type(value) is int:
            return float(value)
        raise RecordError("", f"expected {cls.__name__}, found {_kind(value)}")

    return decode


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
