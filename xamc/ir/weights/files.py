"""Reading byte ranges of weight files with `pread`, never through a map of the file.

A mapped checkpoint shows up as resident memory page by page; `preadv` into a fresh array costs exactly the block
that was asked for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xamc.errors import InputError
from xamc.ir.weights.lazy import Array, numpy_dtype

Bytes = NDArray[np.uint8]


def read_bytes(path: Path, offset: int, length: int) -> Bytes:
    """`length` bytes of `path` from `offset`, as a fresh uint8 array.

    Raises:
        InputError: E1111 when the file ends early or can't be read (it was complete when its header was checked).
    """
    buffer = np.empty(length, dtype=np.uint8)
    view = buffer.data
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(
            "E1111", f"{path} can't be read: {error.strerror}", "restore the file and compile again"
        ) from error
    try:
        done = 0
        while done < length:
            count = os.preadv(descriptor, [view[done:]], offset + done)
            if count == 0:
                raise InputError(
                    "E1111",
                    f"{path} ends at byte {offset + done}, {length - done} bytes short of what its header announces",
                    "download the file again, and don't change it while xamc compiles",
                )
            done += count
    except OSError as error:
        raise InputError(
            "E1111", f"{path} can't be read: {error.strerror}", "check the disk and compile again"
        ) from error
    finally:
        os.close(descriptor)
    return buffer


@dataclass(frozen=True)
class FileTensor:
    """A row-major tensor stored as plain little-endian numbers at `offset` of the file `path`."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: str

    def read_rows(self, start: int, stop: int) -> Array:
        kind = numpy_dtype(self.dtype)
        row_items = int(np.prod(self.shape[1:], dtype=np.int64))
        raw = read_bytes(
            self.path, self.offset + start * row_items * kind.itemsize, (stop - start) * row_items * kind.itemsize
        )
        return raw.view(kind).reshape(stop - start, *self.shape[1:])
