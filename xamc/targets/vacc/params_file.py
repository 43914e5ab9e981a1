"""Writes `mod.params`, TVM's parameter container, without ever holding a tensor.

The layout (`xamc.artifact.params_index`) follows from names, shapes and dtypes alone, so every header is
written first and the data go to their places block by block, from any worker process. TVM's own writer wants the
whole dictionary in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xamc.artifact.params_index import TYPE_CODES, data_bytes, names_header, tensor_header
from xamc.artifact.staging import disk_errors
from xamc.errors import InternalError
from xamc.ir.weights.lazy import Array, LazyTensor, numpy_dtype, read_width
from xamc.ir.weights.transforms import FLOATS, check_finite
from xamc.jobs.worker_pool import run_blocks

# float32 bytes of a block's rows; transforms take a few times as much
TASK_BYTES = 16 * 2**20
# parts of one quantized matrix, which are computed together from the same rows of the checkpoint
_PARTS = (".codes", ".scales")


@dataclass(frozen=True)
class ParamsFile:
    """One parameter file to write: tensors by name, in the file's order."""

    path: Path
    tensors: Mapping[str, LazyTensor]

    @property
    def parameters(self) -> int:
        """Scalars of all tensors, scales included."""
        return sum(int(np.prod(tensor.shape, dtype=np.int64)) for tensor in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """The file's size."""
        headers = len(names_header(list(self.tensors)))
        return headers + sum(len(head) + size for head, size in map(_sizes, self.tensors.items()))


def write_params_files(
    files: Sequence[ParamsFile],
    workers: int,
    progress: Callable[[int], None] = lambda parameters: None,
) -> None:
    """Writes parameter files, such as those of all ranks.

    Blocks of all files go to whichever worker is free. A worker holds one block of rows and what its transforms make
    of it: about 200 MiB at most, whatever the tensors' sizes.

    Args:
        files: what to write; the files are created new.
        workers: processes; 1 writes in this one.
        progress: called with the number of parameters done since the last call.

    Raises:
        InputError: what reading the checkpoint raises (damage, NaN or infinity E1123, float16 overflow E1124); E1506
            disk full.
        InternalError: E1420, a tensor's dtype has no place in the container.
        ToolchainError: E1404 when a worker process dies.
    """
    blocks: list[Iterator[_Block]] = []
    for file in files:
        for name, tensor in file.tensors.items():
            if tensor.dtype not in TYPE_CODES:
                raise InternalError(
                    "E1420",
                    f"{name} is {tensor.dtype}; parameter files hold {', '.join(TYPE_CODES)}",
                    fix="report this with the spec; a graph pass left a weight in a type that the card doesn't have",
                )
        with disk_errors(file.path):
            blocks.append(_blocks(file, _write_headers(file)))
    calls = ((block,) for iterator in blocks for block in iterator)
    run_blocks(_write_block, calls, workers, progress)


@dataclass(frozen=True)
class _Block:
    """Rows [start, stop) of tensors with equally many rows, and where each tensor's data begins."""

    path: Path
    parts: tuple[tuple[str, LazyTensor, int], ...]
    start: int
    stop: int


def _sizes(item: tuple[str, LazyTensor]) -> tuple[bytes, int]:
    _, tensor = item
    return tensor_header(tensor.dtype, tensor.shape), data_bytes(tensor.dtype, tensor.shape)


def _write_headers(file: ParamsFile) -> dict[str, int]:
    """Creates the file with all headers and the room for all data; returns where each tensor's data begins."""
    offsets: dict[str, int] = {}
    descriptor = os.open(file.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        # reserves the blocks, so that a full disk is found before hours of work
        os.posix_fallocate(descriptor, 0, file.nbytes)
        header, at = names_header(list(file.tensors)), 0
        for item in file.tensors.items():
            head, nbytes = _sizes(item)
            header += head
            _write(descriptor, np.frombuffer(header, np.uint8), at)
            offsets[item[0]] = at + len(header)
            at, header = at + len(header) + nbytes, b""
        if header:  # no tensor at all
            _write(descriptor, np.frombuffer(header, np.uint8), at)
    finally:
        os.close(descriptor)
    return offsets


def _blocks(file: ParamsFile, offsets: Mapping[str, int]) -> Iterator[_Block]:
    groups: dict[tuple[str, int], list[str]] = {}
    for name, tensor in file.tensors.items():
        stem = next((name.removesuffix(part) for part in _PARTS if name.endswith(part)), name)
        rows = tensor.shape[0] if tensor.shape else 1
        groups.setdefault((stem, rows), []).append(name)
    for (_, rows), names in groups.items():
        parts = tuple((name, file.tensors[name], offsets[name]) for name in names)
        # a rank's columns are cut out of the checkpoint's whole rows
        width = max(read_width(tensor) for _, tensor, _ in parts)
        step = max(1, TASK_BYTES // (4 * max(1, width)))
        for start in range(0, rows, step):
            yield _Block(file.path, parts, start, min(rows, start + step))


def _write_block(block: _Block) -> int:
    with disk_errors(block.path):
        descriptor = os.open(block.path, os.O_WRONLY)
        try:
            done = 0
            for name, tensor, offset in block.parts:
                rows = tensor.read_rows(block.start, block.stop)
                if rows.dtype.name in FLOATS:
                    check_finite(name, rows, block.start)
                _check_block(name, tensor, rows, block.stop - block.start)
                _write(descriptor, rows, offset + rows.nbytes // (block.stop - block.start) * block.start)
                done += int(rows.size)
            return done
        finally:
            os.close(descriptor)


def _check_block(name: str, tensor: LazyTensor, rows: Array, count: int) -> None:
    """A tensor that yields something else than it declares would shift everything behind it."""
    if rows.dtype != numpy_dtype(tensor.dtype) or (tensor.shape and rows.shape != (count, *tensor.shape[1:])):
        raise InternalError(
            "E1420",
            f"{name} is declared {tensor.dtype} {tensor.shape}, but {count} of its rows are {rows.dtype} {rows.shape}",
            fix="report this with the spec",
        )


def _write(descriptor: int, array: Array, offset: int) -> None:
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
