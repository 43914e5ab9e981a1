"""JSON files of a checkpoint, read with a bound and without repeated keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xamc.compiler.errors import InputError

MAX_JSON_BYTES = 64 * 2**20


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


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, at most 64 MiB, without repeated keys.

    Raises:
        InputError: E1103.
    """
    restore = "restore the model's own file"
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InputError("E1103", f"{path} is larger than {MAX_JSON_BYTES} bytes", restore)
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_object)
    except OSError as error:
        raise InputError(
            "E1103", f"{path} can't be read: {error.strerror}", "a checkpoint folder needs it beside the weights"
        ) from error
    except RepeatedKeyError as error:
        raise InputError("E1103", f"{path} names the key {error} twice", restore) from error
    except (ValueError, RecursionError) as error:
        raise InputError("E1103", f"{path} is not valid JSON: {error}", restore) from error
    if not isinstance(value, dict):
        raise InputError("E1103", f"{path} holds no JSON object", restore)
    return value
