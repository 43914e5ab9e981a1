"""Writing safetensors in shards, block by block: the largest array in memory is one block of rows.

Format: https://github.com/huggingface/safetensors#format; index and shard names as transformers writes them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from xamc.ir.weights.lazy import LazyTensor, numpy_dtype, row_blocks
from xamc.ir.weights.transforms import check_finite

SHARD_BYTES = 5 * 10**9
INDEX = "model.safetensors.index.json"
_LABELS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def tensor_bytes(tensor: LazyTensor) -> int:
    """Bytes of a stored floating tensor."""
    return math.prod(tensor.shape) * numpy_dtype(tensor.dtype).itemsize


def plan_shards(tensors: Mapping[str, LazyTensor], shard_bytes: int = SHARD_BYTES) -> dict[str, list[str]]:
    """File name → tensors in it, in order; each file at most `shard_bytes` of data, or one tensor."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        size = tensor_bytes(tensor)
        if groups[-1] and filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": names for i, names in enumerate(groups, 1)}


def write_shards(
    folder: Path,
    tensors: Mapping[str, LazyTensor],
    shard_bytes: int = SHARD_BYTES,
    advance: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """Streams `tensors` into `folder`.

    Args:
        folder: exists.
        tensors: float32, float16 or bfloat16.
        shard_bytes: largest data of one file.
        advance: told how many parameters each block had.

    Returns:
        Names of the files written, the index included when there is more than one shard.

    Raises:
        InputError: E1123 a weight is NaN or infinite, E1124 one is beyond float16, E1111 a source file is cut off.
    """
    shards = plan_shards(tensors, shard_bytes)
    for file, names in shards.items():
        with (folder / file).open("wb") as stream:
            stream.write(_header({name: tensors[name] for name in names}))
            for name in names:
                _write_tensor(stream, name, tensors[name], advance)
    if len(shards) == 1:
        return list(shards)
    index = {
        "metadata": {"total_size": sum(map(tensor_bytes, tensors.values()))},
        "weight_map": {name: file for file, names in shards.items() for name in names},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return [*shards, INDEX]


def _header(tensors: Mapping[str, LazyTensor]) -> bytes:
    # older transformers refuse a file whose metadata doesn't say for which framework it was written
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        size = tensor_bytes(tensor)
        entries[name] = {
            "dtype": _LABELS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_tensor(stream: BinaryIO, name: str, tensor: LazyTensor, advance: Callable[[int], None]) -> None:
    for start, stop in row_blocks(tensor):
        block = np.ascontiguousarray(tensor.read_rows(start, stop))
        check_finite(name, block, start)
        stream.write(block.view(np.uint8).data)
        advance(block.size)
