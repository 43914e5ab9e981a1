"""A GGUF model that was split into several files: ``NAME-00001-of-00003.gguf`` and so on.

The first part holds the metadata, each part its own tensors (llama.cpp's llama-gguf-split).
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from xamc.compiler.frontends.checkpoint import KEYS
from xamc.compiler.frontends.gguf.file import GgufFile, read_gguf
from xamc.errors import InputError, UnsupportedError

_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf\Z", re.DOTALL)
MAX_PARTS = 1 << 12


def read_parts(path: Path) -> GgufFile:
    """The header of the GGUF file `path`, or of the only model in the folder `path`, with the tensors of all its parts.

    Raises:
        InputError: E1101 nothing there, E1114 a part is missing, E1115 a tensor in two parts, E1130 parts of different
            models, and what `read_gguf` raises.
        UnsupportedError: E1133, a part whose name doesn't lead to the others.
    """
    if path.is_dir():
        path = _only_model(path)
    file = read_gguf(path)
    count = _whole_number(file, "split.count", 0)
    if count <= 1:
        return file
    match = _NAME.match(path.name)
    if match is None or int(match["count"]) != count:
        raise UnsupportedError(
            "E1133",
            f"{path} is one part of a split GGUF of {count}, and its name doesn't end in -0000N-of-{count:05}.gguf",
            "give the parts their names back, or merge them with llama-gguf-split --merge; appending them won't do",
        )
    if count > MAX_PARTS:
        raise InputError("E1130", f"{path} is not a valid GGUF file: split.count {count}", "download the file again")
    paths = [path.with_name(f"{match['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    if missing := [part.name for part in paths if not part.exists()]:
        raise InputError(
            "E1114",
            f"{path} is part of a split GGUF of {count}, and {missing[0]} is not beside it"
            + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""),
            "download all parts into one folder",
            details=tuple(missing[:20]),
        )
    return _joined([file if part == path else read_gguf(part) for part in paths])


def _only_model(folder: Path) -> Path:
    files = sorted(folder.glob("*.gguf"))
    parts = [_NAME.match(file.name) for file in files]
    if len(files) > 1 and all(parts) and len({(m["stem"], m["count"]) for m in parts if m}) == 1:
        return files[0]
    if len(files) != 1:
        raise InputError(
            "E1101", f"{folder} holds {len(files)} GGUF files", "set frontend.checkpoint to the one file", keys=KEYS
        )
    return files[0]


def _whole_number(file: GgufFile, key: str, default: int) -> int:
    value = file.metadata.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(
            "E1130", f"{file.path} is not a valid GGUF file: {key} is {value!r}", "download the file again"
        )
    return value


def _joined(parts: list[GgufFile]) -> GgufFile:
    first, tensors = parts[0], dict(parts[0].tensors)
    for number, part in enumerate(parts):
        found = _whole_number(part, "split.no", -1), _whole_number(part, "split.count", 0)
        if found != (number, len(parts)):
            raise InputError(
                "E1130",
                f"{part.path} is part {found[0] + 1} of {found[1]} by its metadata, not {number + 1} of {len(parts)}",
                "download the parts of one model again",
            )
        if twice := tensors.keys() & part.tensors.keys() if number else set():
            raise InputError(
                "E1115",
                f"{part.path} holds the tensor {min(twice)}, which an earlier part holds too",
                "download the parts of one model again",
            )
        tensors |= part.tensors
    announced = _whole_number(first, "split.tensors.count", len(tensors))
    if announced != len(tensors):
        raise InputError(
            "E1130",
            f"{first.path} announces {announced} tensors, its {len(parts)} parts hold {len(tensors)}",
            "download the parts of one model again",
        )
    return replace(first, tensors=tensors, paths=tuple(part.path for part in parts))
