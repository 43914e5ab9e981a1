"""The header of a GGUF file, parsed with bounds on everything, without mapping the file.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A header is hostile until proven otherwise: every
length is checked against what is left of the file before anything is allocated.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from xamc.compiler.frontends.checkpoint import KEYS
from xamc.errors import InputError, UnsupportedError
from xamc.ir.weights.files import FileTensor
from xamc.ir.weights.ggml import BLOCK_FORMATS, BlockTensor

MAX_HEADER_BYTES = 256 * 2**20
MAX_TENSORS = 1 << 20
MAX_KEYS = 1 << 16
MAX_ARRAY_ITEMS = 1 << 22
MAX_DIMENSIONS = 4

# Value type → struct format; 8 is a string, 9 an array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

# ggml tensor types we read as stored, and the names of the others for messages (ggml.h).
_PLAIN = {0: ("F32", "float32", 4), 1: ("F16", "float16", 2), 30: ("BF16", "bfloat16", 2)}
_NAMES = {
    2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K",
    14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0",
    35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip


@dataclass(frozen=True)
class GgufFile:
    """A parsed header: metadata values by key (arrays as lists), tensors by llama.cpp's names.

    `path` holds the metadata; `paths` are all files of a model that was split.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, FileTensor | BlockTensor]
    paths: tuple[Path, ...]


class _Cursor:
    """Reads the header front to back and refuses to pass its bound."""

    def __init__(self, path: Path, stream: BinaryIO, size: int) -> None:
        self.path, self.stream, self.size = path, stream, size
        self.offset = 0
        self.bound = min(size, MAX_HEADER_BYTES)

    def fail(self, what: str) -> NoReturn:
        raise InputError("E1130", f"{self.path} is not a valid GGUF file: {what}", "download the file again")

    def take(self, count: int) -> bytes:
        if count > self.bound - self.offset:
            self.fail(f"the header asks for {count} bytes at byte {self.offset}, the file has {self.size}")
        data = self.stream.read(count)
        if len(data) != count:
            self.fail(f"it ends inside the header, at byte {self.offset + len(data)}")
        self.offset += count
        return data

    def scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self) -> str:
        raw = self.take(self.scalar("Q"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.fail(f"a string at byte {self.offset - len(raw)} is not UTF-8")

    def value(self, kind: int, key: str) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            self.fail(f"key {key} has the unknown value type {kind}")
        item, count = self.scalar("I"), self.scalar("Q")
        if count > MAX_ARRAY_ITEMS:
            self.fail(f"key {key} announces {count} items")
        if item == _STRING:
            return [self.text() for _ in range(count)]
        if item not in _SCALARS:
            self.fail(f"key {key} is an array of the unknown value type {item}")
        code = _SCALARS[item]
        return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(code))))


def read_gguf(path: Path) -> GgufFile:
    """Parses and checks the header of `path`.

    Raises:
        InputError: E1130 malformed, E1131 truncated or overlapping tensors, E1115 duplicate names.
        UnsupportedError: E1130 another version or byte order, E1132 a tensor type xamc doesn't read.
    """
    try:
        if not path.is_file():
            raise InputError("E1101", f"{path} is not a file", "set frontend.checkpoint to the .gguf file", keys=KEYS)
        size = path.stat().st_size
        stream = path.open("rb")
    except OSError as error:
        raise InputError(
            "E1101", f"{path} can't be read: {error.strerror}", "check the path and its permissions", keys=KEYS
        ) from error
    with stream:
        cursor = _Cursor(path, stream, size)
        if cursor.take(4) != b"GGUF":
            cursor.fail("it doesn't start with GGUF")
        version = cursor.scalar("I")
        if version not in (2, 3):
            if int.from_bytes(version.to_bytes(4, "little"), "big") in (1, 2, 3):
                raise UnsupportedError(
                    "E1133", f"{path} is a big-endian GGUF file; little-endian ones are read",
                    f"convert a copy of it with the Python package gguf: gguf-convert-endian {path.name} little",
                )  # fmt: skip
            raise UnsupportedError(
                "E1133", f"{path} is GGUF version {version}; versions 2 and 3 are read",
                "convert it with a current llama.cpp",
            )  # fmt: skip
        tensor_count, key_count = cursor.scalar("Q"), cursor.scalar("Q")
        if tensor_count > MAX_TENSORS or key_count > MAX_KEYS:
            cursor.fail(f"it announces {tensor_count} tensors and {key_count} keys")
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = cursor.text()
            if key in metadata:
                cursor.fail(f"the key {key} occurs twice")
            metadata[key] = cursor.value(cursor.scalar("I"), key)
        infos = [_tensor_info(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1) or alignment > 1 << 20:
        cursor.fail(f"general.alignment is {alignment}")
    tensors = _place(cursor, infos, -(-cursor.offset // alignment) * alignment, alignment)
    return GgufFile(path, metadata, tensors, (path,))


def _tensor_info(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """(name, shape with the slowest axis first, type, offset)."""
    name = cursor.text()
    dimensions = cursor.scalar("I")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        cursor.fail(f"tensor {name} has {dimensions} dimensions")
    shape = tuple(cursor.scalar("Q") for _ in range(dimensions))[::-1]
    if math.prod(shape) > 1 << 48 or 0 in shape:
        cursor.fail(f"tensor {name} has the shape {list(shape)}")
    return name, shape, cursor.scalar("I"), cursor.scalar("Q")


def _place(
    cursor: _Cursor, infos: list[tuple[str, tuple[int, ...], int, int]], base: int, alignment: int
) -> dict[str, FileTensor | BlockTensor]:
    tensors: dict[str, FileTensor | BlockTensor] = {}
    spans: list[tuple[int, int, str]] = []
    for name, shape, kind, offset in infos:
        if name in tensors:
            raise InputError("E1115", f"{cursor.path} holds the tensor {name} twice", "convert the model again")
        start = base + offset
        if offset % alignment:
            cursor.fail(f"tensor {name} lies at {offset}, not at a multiple of {alignment}")
        if kind in _PLAIN:
            _, dtype, width = _PLAIN[kind]
            length = math.prod(shape) * width
            tensors[name] = FileTensor(cursor.path, start, shape, dtype)
        elif (label := _NAMES.get(kind, "")) in BLOCK_FORMATS:
            layout = BLOCK_FORMATS[label]
            if shape[-1] % layout.weights:
                cursor.fail(
                    f"tensor {name} of type {label} has rows of {shape[-1]}, not a multiple of {layout.weights}"
                )
            length = math.prod(shape) // layout.weights * layout.bytes
            tensors[name] = BlockTensor(cursor.path, start, shape, label)
        else:
            readable = ", ".join([*(v[0] for v in _PLAIN.values()), *BLOCK_FORMATS])
            raise UnsupportedError(
                "E1132",
                f"{cursor.path}: tensor {name} has the type {label or f'number {kind}'}",
                f"requantize the model to one of {readable}, or use the original safetensors",
            )
        spans.append((start, start + length, name))
    spans.sort()
    for (_, end, name), (start, _, following) in pairwise(spans):
        if end > start:
            raise InputError(
                "E1131",
                f"{cursor.path}: tensors {name} and {following} overlap at byte {start}",
                "download the file again",
            )
    if spans and max(end for _, end, _ in spans) > cursor.size:
        end, name = max((end, name) for _, end, name in spans)
        raise InputError(
            "E1131",
            f"{cursor.path} is truncated: tensor {name} ends at byte {end}, the file has {cursor.size}",
            "download the file again",
        )
    return tensors
