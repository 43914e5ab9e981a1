"""TVM's parameter container: what lies where in a file, without TVM and without reading a tensor.

Layout, all numbers little-endian::

    u64 list magic 0xF7E58D4F05049CB7 · u64 reserved, 0
    u64 number of names · for each: u64 length, bytes (UTF-8)
    u64 number of tensors, the same · for each:
        u64 tensor magic 0xDD5E40F096B4A13F · u64 reserved, 0
        i32 device type, 1 (CPU) · i32 device id · i32 number of dimensions
        u8 type code (0 int, 1 uint, 2 float) · u8 bits · u16 lanes, 1
        i64 dimensions · i64 bytes of data · data, C order

Payloads are not aligned. `targets/vacc/params_file.py` writes it.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from xamc.errors import InputError

LIST_MAGIC = 0xF7E58D4F05049CB7
TENSOR_MAGIC = 0xDD5E40F096B4A13F
_CPU = 1
# far beyond any model: bounds for what a damaged file can make a reader do
_MAX_DIMENSIONS = 16
_MAX_NAME_BYTES = 4096

TYPE_CODES: Mapping[str, tuple[int, int]] = {
    "int8": (0, 8),
    "int32": (0, 32),
    "int64": (0, 64),
    "float16": (2, 16),
    "float32": (2, 32),
}
"""(type code, bits) of each dtype that parameters are stored in."""
_DTYPES = {code: name for name, code in TYPE_CODES.items()}


@dataclass(frozen=True)
class ParamEntry:
    """One tensor of a container: `nbytes` bytes of `dtype` in C order at `offset` of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def data_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor's data."""
    return TYPE_CODES[dtype][1] // 8 * math.prod(shape)


def names_header(names: Sequence[str]) -> bytes:
    """Everything before the first tensor."""
    parts = [struct.pack("<3Q", LIST_MAGIC, 0, len(names))]
    for name in names:
        encoded = name.encode()
        parts += [struct.pack("<Q", len(encoded)), encoded]
    parts.append(struct.pack("<Q", len(names)))
    return b"".join(parts)


def tensor_header(dtype: str, shape: Sequence[int]) -> bytes:
    """Everything of a tensor before its data."""
    code, bits = TYPE_CODES[dtype]
    head = struct.pack("<2Q3i2BH", TENSOR_MAGIC, 0, _CPU, 0, len(shape), code, bits, 1)
    return head + struct.pack(f"<{len(shape)}q", *shape) + struct.pack("<q", data_bytes(dtype, shape))


def read_params_index(path: Path) -> dict[str, ParamEntry]:
    """What each tensor of a parameter file is and where its data lies; only the headers are read.

    Args:
        path: the file; nothing in it is trusted.

    Returns:
        Entries by name, in the file's order.

    Raises:
        InputError: E1512, the file is missing, is no such container, is cut off, or contradicts itself.
    """
    try:
        with path.open("rb") as file:
            reader = _Reader(path, file, os.fstat(file.fileno()).st_size)
            return reader.entries()
    except OSError as error:
        raise _damaged(path, f"it can't be read: {error.strerror}") from error


class _Reader:
    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file, self.size = path, file, size

    def entries(self) -> dict[str, ParamEntry]:
        magic, _, count = self.unpack("<3Q", "the header")
        if magic != LIST_MAGIC:
            raise _damaged(self.path, f"it begins with {magic:#018x}, not with {LIST_MAGIC:#018x}")
        if count > self.size // 8:  # each name takes 8 bytes at least
            raise _damaged(self.path, f"it claims to hold {count} tensors in {self.size} bytes")
        names = [self.name(number) for number in range(count)]
        (tensors,) = self.unpack("<Q", "the number of tensors")
        if tensors != count:
            raise _damaged(self.path, f"it has {count} names for {tensors} tensors")
        if len(set(names)) != count:
            raise _damaged(self.path, "two tensors have the same name")
        found = {name: self.tensor(name) for name in names}
        if self.file.tell() != self.size:
            raise _damaged(self.path, f"{self.size - self.file.tell()} bytes follow its last tensor")
        return found

    def name(self, number: int) -> str:
        (length,) = self.unpack("<Q", f"the length of name {number}")
        if length > _MAX_NAME_BYTES:
            raise _damaged(self.path, f"name {number} claims {length} bytes")
        try:
            return self.read(length, f"name {number}").decode()
        except UnicodeDecodeError:
            raise _damaged(self.path, f"name {number} is not UTF-8") from None

    def tensor(self, name: str) -> ParamEntry:
        magic, _, device, _, dimensions, code, bits, lanes = self.unpack("<2Q3i2BH", name)
        if magic != TENSOR_MAGIC:
            raise _damaged(self.path, f"{name} begins with {magic:#018x}, not with {TENSOR_MAGIC:#018x}")
        if device != _CPU:
            raise _damaged(self.path, f"{name} is of device type {device}, not {_CPU} (CPU)")
        dtype = _DTYPES.get((code, bits))
        if dtype is None or lanes != 1:
            raise _damaged(self.path, f"{name} has type code {code} with {bits} bits and {lanes} lanes")
        if not 0 <= dimensions <= _MAX_DIMENSIONS:
            raise _damaged(self.path, f"{name} has {dimensions} dimensions")
        shape = self.unpack(f"<{dimensions}q", f"the shape of {name}")
        (nbytes,) = self.unpack("<q", f"the size of {name}")
        if any(dim < 0 for dim in shape) or nbytes != data_bytes(dtype, shape):
            raise _damaged(self.path, f"{name} is {dtype} {list(shape)} in {nbytes} bytes")
        offset = self.file.tell()
        if nbytes > self.size - offset:
            raise _damaged(self.path, f"it ends within the data of {name}")
        self.file.seek(offset + nbytes)
        return ParamEntry(name, dtype, shape, offset, nbytes)

    def unpack(self, layout: str, what: str) -> tuple[int, ...]:
        return struct.unpack(layout, self.read(struct.calcsize(layout), what))

    def read(self, length: int, what: str) -> bytes:
        if length > self.size - self.file.tell():
            raise _damaged(self.path, f"it ends within {what}")
        return self.file.read(length)


def _damaged(path: Path, problem: str) -> InputError:
    return InputError(
        "E1512",
        f"{path} is not a whole parameter file: {problem}",
        fix="copy the artifact again from where it is whole, or compile the model again",
    )
