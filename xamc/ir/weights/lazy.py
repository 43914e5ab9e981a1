"""Lazy tensors: a reference to bytes in a file plus a chain of transforms, read in row blocks.

Nothing here holds a whole tensor. `read_rows(start, stop)` yields rows of axis 0; callers choose blocks with
`row_blocks`, which keeps each block under 64 MiB. Every node is a frozen, picklable dataclass, so that worker
processes can be handed one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Protocol, runtime_checkable

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from xamc.errors import InternalError

Array = NDArray[np.generic]
BLOCK_BYTES = 64 * 2**20

_NUMPY = {name: np.dtype(getattr(ml_dtypes, name)) for name in ("bfloat16", "uint4", "int4")}


def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """The NumPy dtype of a dtype name of ours; bfloat16, uint4 and int4 come from ml_dtypes."""
    return _NUMPY.get(name) or np.dtype(name)


@runtime_checkable
class LazyTensor(Protocol):
    """A tensor that can be read row block by row block."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> str: ...

    def read_rows(self, start: int, stop: int) -> Array:
        """Rows [start, stop) of axis 0 as a fresh array of `dtype`; a 1-D tensor yields elements."""
        ...


def row_blocks(tensor: LazyTensor, multiple: int = 1, limit: int = BLOCK_BYTES) -> Iterator[tuple[int, int]]:
    """Row ranges covering `tensor`, each a multiple of `multiple` rows (but the last) and at most `limit` bytes, also
    of what is read for it."""
    rows = tensor.shape[0]
    row_bytes = max(1, read_width(tensor) * 4)
    step = max(multiple, limit // row_bytes // multiple * multiple)
    for start in range(0, rows, step):
        yield start, min(rows, start + step)


def read_width(tensor: object) -> int:
    """Numbers that have to be read for one row: those of the widest tensor that `tensor` is made of.

    Columns are cut out of whole rows, so a narrow part of a wide matrix takes as much memory as the matrix's rows do.
    """
    shape = getattr(tensor, "shape", ())
    width = int(np.prod(shape[1:], dtype=np.int64)) if shape else 1
    values = [getattr(tensor, field.name) for field in fields(tensor)] if is_dataclass(tensor) else []
    for value in values:
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, LazyTensor) or isinstance(getattr(part, "source", None), LazyTensor):
                width = max(width, read_width(part))
    return width


def require(condition: bool, message: str) -> None:
    """Raises InternalError E1190 when a transform is built on tensors it doesn't fit (a defect of the caller)."""
    if not condition:
        raise InternalError("E1190", message, "report this with the spec and the model's config.json")


def _join(parts: list[Array], tensor: LazyTensor) -> Array:
    """`parts` one after the other; no copy of a single part, no rows of `tensor` for none."""
    if not parts:
        return np.empty((0, *tensor.shape[1:]), dtype=numpy_dtype(tensor.dtype))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


@dataclass(frozen=True)
class ArrayTensor:
    """A small tensor that is already in memory (twin weights, tables)."""

    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> str:
        return self.array.dtype.name

    def read_rows(self, start: int, stop: int) -> Array:
        return np.array(self.array[start:stop])


@dataclass(frozen=True)
class RowRanges:
    """The rows of `source` listed by `ranges` (start, stop), one after the other: permute, slice, unpack."""

    source: LazyTensor
    ranges: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        rows = self.source.shape[0]
        require(
            bool(self.ranges) and all(0 <= a <= b <= rows for a, b in self.ranges),
            f"row ranges {self.ranges[:4]} don't fit {rows} rows",
        )

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(b - a for a, b in self.ranges), *self.source.shape[1:])

    @property
    def dtype(self) -> str:
        return self.source.dtype

    def read_rows(self, start: int, stop: int) -> Array:
        parts, offset = [], 0
        for a, b in self.ranges:
            lo, hi = max(start, offset), min(stop, offset + b - a)
            if lo < hi:
                parts.append(self.source.read_rows(a + lo - offset, a + hi - offset))
            offset += b - a
        return _join(parts, self)


@dataclass(frozen=True)
class ConcatRows:
    """Several tensors one after the other along axis 0."""

    sources: tuple[LazyTensor, ...]

    def __post_init__(self) -> None:
        kinds = {(s.dtype, s.shape[1:]) for s in self.sources}
        require(len(kinds) == 1, f"rows of {sorted(map(str, kinds))} can't be concatenated")

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(s.shape[0] for s in self.sources), *self.sources[0].shape[1:])

    @property
    def dtype(self) -> str:
        return self.sources[0].dtype

    def read_rows(self, start: int, stop: int) -> Array:
        parts, offset = [], 0
        for source in self.sources:
            rows = source.shape[0]
            lo, hi = max(start, offset), min(stop, offset + rows)
            if lo < hi:
                parts.append(source.read_rows(lo - offset, hi - offset))
            offset += rows
        return _join(parts, self)
