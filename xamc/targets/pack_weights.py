"""Streams stored tensors into the packed weights file, block by block, in parallel worker processes.

A task is a block of output rows of one weight. A worker reads its rows through the lazy tensors, packs them and
writes each buffer's bytes at their place with `pwrite`, so that no process ever holds more than a block.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xamc.artifact.packing import PackedLayout, pack_rows
from xamc.artifact.panels import PANEL
from xamc.artifact.staging import disk_errors
from xamc.ir.weights.lazy import Array, LazyTensor, numpy_dtype
from xamc.ir.weights.transforms import FLOATS, check_finite
from xamc.jobs.worker_pool import run_blocks

# float32 bytes of a task's rows: a few of them (source, float32, codes, packed) fit a small working set
TASK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class PackedWeight:
    """One weight to write: its stored tensors and where its buffers lie in the file.

    Without a `layout` there is one source, written row by row as it is, in `dtype`.
    """

    sources: tuple[tuple[str, LazyTensor], ...]
    layout: PackedLayout | None
    offsets: tuple[int, ...]
    dtype: str = "float32"

    @property
    def parameters(self) -> int:
        """Scalars of the weight itself, scales not counted."""
        return int(np.prod(self.sources[0][1].shape, dtype=np.int64))


def pack_weights(
    weights: Sequence[PackedWeight],
    nbytes: int,
    path: Path,
    workers: int,
    progress: Callable[[int], None] = lambda parameters: None,
) -> None:
    """Writes the weights file.

    Args:
        weights: what to pack, with byte offsets into the file.
        nbytes: the file's size.
        path: the file, created new.
        workers: processes; 1 packs in this one.
        progress: called with the number of parameters done since the last call.

    Raises:
        InputError: what reading the checkpoint raises (damage, NaN, float16 overflow); E1506 disk full.
        ToolchainError: E1404 when a worker process dies.
    """
    with disk_errors(path):
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        try:
            # reserves the blocks, so that a full disk is found before hours of work
            os.posix_fallocate(descriptor, 0, max(nbytes, 1))
            os.ftruncate(descriptor, nbytes)
        finally:
            os.close(descriptor)
        calls = ((path, weight, start, stop) for weight in weights for start, stop in _blocks(weight))
        run_blocks(_pack_block, calls, workers, progress)


def _blocks(weight: PackedWeight) -> Iterator[tuple[int, int]]:
    shape = weight.sources[0][1].shape
    rows, width = shape[0], int(np.prod(shape[1:], dtype=np.int64))
    step = max(PANEL, TASK_BYTES // (4 * width) // PANEL * PANEL)
    for start in range(0, rows, step):
        yield start, min(rows, start + step)


def _pack_block(path: Path, weight: PackedWeight, start: int, stop: int) -> int:
    parts = [tensor.read_rows(start, stop) for _, tensor in weight.sources]
    name = weight.sources[0][0]
    descriptor = os.open(path, os.O_WRONLY)
    try:
        if parts[0].dtype.name in FLOATS:
            check_finite(name, parts[0], start)
        if weight.layout is None:
            rows = parts[0].astype(numpy_dtype(weight.dtype))
            _write(descriptor, rows, weight.offsets[0] + rows.nbytes // (stop - start) * start)
            return int(rows.size)
        packed = _packed(weight.layout, parts)
        for buffer, offset in zip(weight.layout.buffers, weight.offsets, strict=True):
            _write(descriptor, packed[buffer.name], offset + start // PANEL * buffer.panel_bytes)
        return int(parts[0].size)
    finally:
        os.close(descriptor)


def _packed(layout: PackedLayout, parts: list[Array]) -> Mapping[str, Array]:
    if not layout.format.quantized:
        return pack_rows(parts[0], layout.format)
    codes = parts[0].astype(np.int8 if layout.format.kind == "int8" else np.uint8)
    return pack_rows(codes, layout.format, scale=parts[1], zero=parts[2] if len(parts) > 2 else None)


def _write(descriptor: int, array: Array, offset: int) -> None:
    # as bytes first: bfloat16 is no type of Python's buffers
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
