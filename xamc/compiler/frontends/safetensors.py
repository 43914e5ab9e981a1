"""The header of a safetensors file, parsed with bounds on everything; data is read later, by `FileTensor`.

Format: 8 bytes little-endian header length, a JSON object, then the tensors' bytes, without holes and in any order
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import math
import stat
from pathlib import Path
from typing import Any

from xamc.compiler.frontends.json_file import RepeatedKeyError, parse_json
from xamc.errors import InputError
from xamc.ir.weights.files import FileTensor

MAX_HEADER_BYTES = 100 * 2**20
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
WIDTHS = {
    "F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8,
}  # fmt: skip


def _invalid(path: Path, what: str) -> InputError:
    return InputError("E1110", f"{path} is not a valid safetensors file: {what}", "download the file again")


def read_header(path: Path) -> dict[str, tuple[str, FileTensor]]:
    """Tensor name → (safetensors' dtype name, reference), every span checked against the file.

    Tensors of types that weights don't have (I64, F8) are listed too; whoever uses one asks `require_float`.

    Raises:
        InputError: E1110 malformed, E1111 truncated or too long, E1115 a tensor named twice.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise InputError("E1111", f"{path} can't be read: it is no regular file", "restore the model's own file")
        size = status.st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or not 2 <= length <= MAX_HEADER_BYTES:
                raise _invalid(
                    path,
                    f"its header claims {length} bytes (2 to {MAX_HEADER_BYTES} are possible), the file has {size}",
                )
            if 8 + length > size:
                raise InputError(
                    "E1111", f"{path} is truncated: its header alone ends at byte {8 + length}, the file has {size}",
                    "download the file again",
                )  # fmt: skip
            raw = stream.read(length)
    except OSError as error:
        raise InputError(
            "E1111", f"{path} can't be read: {error.strerror}", "check the file and its permissions"
        ) from error
    try:
        header = parse_json(raw.decode("utf-8"))
    except RepeatedKeyError as error:
        raise InputError("E1115", f"{path} names the tensor {error} twice", "download the file again") from error
    except (ValueError, RecursionError) as error:
        raise _invalid(path, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _invalid(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    return _check(path, header, 8 + length, size)


def _check(path: Path, header: dict[str, Any], base: int, size: int) -> dict[str, tuple[str, FileTensor]]:
    tensors: dict[str, tuple[str, FileTensor]] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        stored, shape, begin, end = _entry(path, name, entry)
        if end - begin != math.prod(shape) * WIDTHS[stored]:
            wanted = math.prod(shape) * WIDTHS[stored]
            raise _invalid(path, f"tensor {name}, {stored} {list(shape)}, needs {wanted} bytes and has {end - begin}")
        tensors[name] = (stored, FileTensor(path, base + begin, shape, DTYPES.get(stored, "uint8")))
        spans.append((begin, end, name))
    spans.sort()
    reached = 0
    for begin, end, name in spans:
        if begin < reached:
            raise _invalid(path, f"tensor {name} overlaps the one before it at byte {base + begin}")
        if begin > reached:
            raise _invalid(path, f"{begin - reached} bytes before tensor {name} belong to no tensor")
        reached = end
    if base + reached > size:
        raise InputError(
            "E1111", f"{path} is truncated: tensor {spans[-1][2]} ends at byte {base + reached}, the file has {size}",
            "download the file again",
        )  # fmt: skip
    if base + reached < size:
        raise InputError(
            "E1111", f"{path} has {size - base - reached} bytes after its last tensor", "download the file again"
        )
    return tensors


def _entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """(dtype, shape, begin, end) of a header entry, each of the right JSON type."""
    if not isinstance(entry, dict):
        raise _invalid(path, f"the entry of tensor {name} is not an object")
    stored, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(stored, str) or stored not in WIDTHS:
        raise _invalid(path, f"tensor {name} has the unknown dtype {stored!r}")

    dims, bounds = _sizes(shape), _sizes(span)
    if dims is None or len(dims) > 8:
        raise _invalid(path, f"tensor {name} has the shape {shape!r}")
    if bounds is None or len(bounds) != 2 or bounds[0] > bounds[1]:
        raise _invalid(path, f"tensor {name} has the data_offsets {span!r}")
    return stored, dims, bounds[0], bounds[1]


def _sizes(value: Any) -> tuple[int, ...] | None:
    """A JSON list of sizes below 2^48, or None."""
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n < 1 << 48 for n in value):
        return None
    return tuple(value)


def require_float(path: Path, name: str, stored: str) -> None:
    """Refuses a weight that isn't F32, F16 or BF16.

    Raises:
        InputError: E1112.
    """
    if stored not in DTYPES:
        raise InputError(
            "E1112",
            f"{path}: tensor {name} is stored as {stored}",
            "weights must be F32, F16 or BF16; use the unquantized checkpoint and let frontend.quantize do it",
        )
