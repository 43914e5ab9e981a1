"""What a lazy tensor will read, as a short string for cache keys, without reading it.

A tensor's content follows from its expression and its files. Files are identified by absolute path, size and
modification time in nanoseconds: hashing them would read a 17 GB checkpoint on every compile, and a file that changes
without changing one of these has been tampered with on purpose (an artifact's manifest has real digests). Moving a
checkpoint therefore makes its cache entries unreachable, and nothing worse. Arrays in memory are hashed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from xamc.errors import InputError
from xamc.ir.weights.lazy import LazyTensor, require


def fingerprint(tensor: LazyTensor) -> str:
    """64 hex digits that change when the expression, a file or an array behind `tensor` changes.

    Raises:
        InputError: E1111, a file is gone.
    """
    text = json.dumps(_describe(tensor), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _describe(value: Any) -> Any:
    """`value` as JSON: dataclasses by class and fields, files by identity, arrays by digest."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, tuple | list):
        return [_describe(item) for item in value]
    if isinstance(value, Path):
        return file_identity(value)
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return [value.dtype.name, list(value.shape), digest]
    require(dataclasses.is_dataclass(value), f"a tensor holds a {type(value).__name__}, which has no fingerprint")
    fields = {field.name: _describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return {"": f"{type(value).__module__}.{type(value).__qualname__}", **fields}


def reading_modules(tensors: Iterable[LazyTensor]) -> tuple[str, ...]:
    """The modules whose code reads `tensors`: those of their classes, and of all tensors they are made of, sorted."""
    found: set[str] = set()
    waiting: list[Any] = list(tensors)
    while waiting:
        value = waiting.pop()
        if isinstance(value, tuple | list):
            waiting += value
        elif dataclasses.is_dataclass(value):
            found.add(type(value).__module__)
            waiting += [getattr(value, field.name) for field in dataclasses.fields(value)]
    return tuple(sorted(found))


def file_identity(path: Path) -> list[str | int]:
    """[absolute path, bytes, modification time in ns].

    Raises:
        InputError: E1111.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError("E1111", f"{path} can't be read: {error.strerror}", "restore the file") from error
    return [str(path.absolute()), status.st_size, status.st_mtime_ns]
