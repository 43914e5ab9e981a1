"""The child that opens pickled weights (pytorch_model.bin): where in the file each tensor lies, and nothing else.

A pickle is a program. It runs here in torch's restricted unpickler (``weights_only=True``: tensors and containers, no
function of the file's choosing), in a process of its own with limits on memory, time, files and output. Only names,
shapes and offsets leave it; the weights are read from the file by whoever asked, as from any other checkpoint.
"""

from __future__ import annotations

import os
import re
import resource
import zipfile
from pathlib import Path
from typing import Any

from xamc.errors import InputError

MAX_TENSORS = 1 << 18
MAX_NAME = 1024
# torch's own pages are mapped already when this is added, and so is the file.
_ADDRESS_SPACE = 3 * 2**30
_CPU_SECONDS = 600
_WRAPPERS = ("state_dict", "model", "module")
_LABELS = {
    "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip
_DOWNLOAD = "download the file again, or use a safetensors revision of the model"


def locate(files: list[str]) -> dict[str, dict[str, list[Any]]]:
    """File → tensor name → [safetensors' dtype name, shape, offset in the file].

    Raises:
        InputError: E1164 a file that asks for more than tensors, E1165 a damaged one, E1166 tensors in another form.
    """
    import torch

    torch.set_num_threads(1)
    largest = max((os.path.getsize(file) for file in files), default=0)
    _limit(largest + _ADDRESS_SPACE)
    return _located(files)


def _located(files: list[str]) -> dict[str, dict[str, list[Any]]]:
    return {file: _locate(Path(file)) for file in files}


def _limit(more_bytes: int) -> None:
    """Bounds on this process: addresses, processor time, open files, and what it can write."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    space = pages * resource.getpagesize() + more_bytes
    for kind, limit in (
        (resource.RLIMIT_AS, space),
        (resource.RLIMIT_CPU, _CPU_SECONDS),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_FSIZE, 256 * 2**20),
    ):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (limit, hard) if hard == resource.RLIM_INFINITY else (min(limit, hard), hard))


def _locate(path: Path) -> dict[str, list[Any]]:
    import pickle

    import torch

    _check_container(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from None
    except MemoryError as error:
        raise InputError("E1165", f"{path} asks for more memory than its tensors need", _DOWNLOAD) from error
    # torch raises whatever a malformed program happens to hit
    except Exception as error:
        reason = str(error).partition("\n")[0][:300]
        raise InputError("E1165", f"{path} is not a readable PyTorch file: {reason}", _DOWNLOAD) from error
    maps = _mapped(path)
    found: dict[str, list[Any]] = {}
    for name, tensor in _state(path, content).items():
        if not isinstance(name, str) or len(name) > MAX_NAME or len(found) >= MAX_TENSORS:
            raise InputError("E1165", f"{path} holds impossible names, or more than {MAX_TENSORS} tensors", _DOWNLOAD)
        found[name] = _place(path, name, tensor, maps)
    return found


def _check_container(path: Path) -> None:
    """Only zip files with their members stored as they are can be read in place."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
            order = next((m for m in members if m.filename.endswith("/byteorder") and m.file_size < 16), None)
            swapped = order is not None and archive.read(order) != b"little"
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError) as error:
        raise InputError(
            "E1165",
            f"{path} is not a file of torch.save: {error} (PyTorch before 1.6 wrote another form)",
            "download it again; an old file becomes a new one by torch.save(torch.load(FILE, weights_only=True), FILE)",
        ) from error
    if packed or swapped:
        how = "compressed" if packed else "stored with the highest byte first"
        raise InputError("E1165", f"{path}: its tensors are {how}", "save it again with torch.save")


def _refused(path: Path, message: str) -> InputError:
    name = re.search(r"GLOBAL ([\w.]+)", message)
    first = message.partition("\n")[0][:200]
    what = f"for {name.group(1)}" if name else f"for something that is no tensor ({first})"
    return InputError(
        "E1164",
        f"{path} asks {what} while it is read: weights need no such thing, so it is refused",
        "don't load this file anywhere; use a safetensors revision of the model from a source that you trust",
    )


def _state(path: Path, content: Any) -> dict[Any, Any]:
    """The dictionary of tensors, which training frameworks put one level down."""
    import torch

    for _ in _WRAPPERS:
        if not isinstance(content, dict):
            break
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None or any(isinstance(value, torch.Tensor) for value in content.values()):
            return content
        content = inner
    raise InputError(
        "E1166",
        f"{path} holds a {type(content).__name__}, not a dictionary of tensors",
        "give the file that model.state_dict() was saved to",
    )


def _mapped(path: Path) -> list[tuple[int, int, int]]:
    """(first address, last address, offset in the file) of every mapping of `path` into this process."""
    ranges: list[tuple[int, int, int]] = []
    name, inode = os.path.realpath(path), path.stat().st_ino
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and (fields[5].replace("\\012", "\n") == name or int(fields[4]) == inode):
            first, last = (int(part, 16) for part in fields[0].split("-"))
            ranges.append((first, last, int(fields[2], 16)))
    return ranges


def _place(path: Path, name: str, tensor: Any, maps: list[tuple[int, int, int]]) -> list[Any]:
    import torch

    fix = "save it as contiguous tensors: torch.save({k: v.contiguous() for k, v in state.items()}, FILE)"
    if not isinstance(tensor, torch.Tensor):
        raise InputError("E1166", f"{path}: {name} is a {type(tensor).__name__}, not a tensor", fix)
    label = _LABELS.get(str(tensor.dtype).removeprefix("torch."))
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or label is None or tensor.is_quantized:
        raise InputError("E1166", f"{path}: {name} is stored as {tensor.layout} {tensor.dtype}", fix)
    if not tensor.is_contiguous():
        raise InputError("E1166", f"{path}: {name} is a view with gaps, stored as part of another tensor", fix)
    length = tensor.numel() * tensor.element_size()
    if length == 0:
        return [label, list(tensor.shape), 0]
    address = tensor.data_ptr()
    for first, last, offset in maps:
        if first <= address and address + length <= last:
            return [label, list(tensor.shape), offset + address - first]
    raise InputError("E1166", f"{path}: {name} is not stored in the file but made while it is read", fix)
