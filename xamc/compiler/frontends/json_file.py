"""JSON files of a checkpoint, read with a bound and without repeated keys."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

from xamc.errors import InputError

MAX_JSON_BYTES = 64 * 2**20
MAX_NAME_BYTES = 255
# half of a character outside the first 65,536, as an escape: alone it is no text, and can't be written anywhere
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class RepeatedKeyError(ValueError):
    """A JSON object names a key twice."""


def unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """`object_pairs_hook` that refuses a repeated key, which JSON parsers otherwise resolve silently."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise RepeatedKeyError(key)
        result[key] = value
    return result


def is_file_name(name: str) -> bool:
    """Whether `name`, which a checkpoint chose, is one plain part of a path that every file system can hold."""
    plain = bool(name) and Path(name).name == name and "\\" not in name and "\0" not in name
    return plain and len(name.encode("utf-8", "replace")) <= MAX_NAME_BYTES


def read_text(path: Path) -> str:
    """The text in `path`, at most 64 MiB of UTF-8.

    Raises:
        InputError: E1103.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_JSON_BYTES:
            raise InputError(
                "E1103", f"{path} is not a file of at most {MAX_JSON_BYTES} bytes", "restore the model's own file"
            )
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            "E1103", f"{path} can't be read: {error.strerror}", "a checkpoint folder needs it beside the weights"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError("E1103", f"{path} is not UTF-8", "restore the model's own file") from error


def parse_json(text: str) -> Any:
    """A JSON document without repeated keys and without lone surrogates.

    Raises:
        RepeatedKeyError, ValueError, RecursionError: it is not one.
    """
    value = json.loads(text, object_pairs_hook=unique_object)
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # UnicodeEncodeError is a ValueError
    return value


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, at most 64 MiB, without repeated keys.

    Raises:
        InputError: E1103.
    """
    restore = "restore the model's own file"
    text = read_text(path)
    try:
        value = parse_json(text)
    except RepeatedKeyError as error:
        raise InputError("E1103", f"{path} names the key {error} twice", restore) from error
    except (ValueError, RecursionError) as error:
        raise InputError("E1103", f"{path} is not valid JSON: {error}", restore) from error
    if not isinstance(value, dict):
        raise InputError("E1103", f"{path} holds no JSON object", restore)
    return value
