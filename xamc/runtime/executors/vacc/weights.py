"""Loads a rank's parameter file into the buffers of its code, packing matrices row block by row block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xamc.artifact.panels import PANEL, float_panels, group_panels, int8_panels
from xamc.artifact.params_index import ParamEntry, read_params_index
from xamc.errors import InputError
from xamc.runtime.executors.vacc.description import CodeWeight
from xamc.runtime.memory import aligned_zeros

Array = NDArray[np.generic]
# bytes read at a time; packing takes a few times as much
_BLOCK_BYTES = 16 * 2**20


class WeightStore:
    """The weights of one rank. Graphs that read the same file share what is made of it."""

    def __init__(self, from_array: Callable[[Array], Any]) -> None:
        """Args:
        from_array: makes the tensor that compiled code takes of an aligned array.
        """
        self._from_array = from_array
        self._made: dict[tuple[object, ...], list[Any]] = {}

    def load(self, path: Path, weights: tuple[CodeWeight, ...]) -> list[Any]:
        """The weights tuple of a graph.

        Raises:
            InputError: E1512 a damaged file; E1611 a weight is missing or of another shape or type.
        """
        index = read_params_index(path)
        status = path.stat()
        tensors: list[Any] = []
        with path.open("rb") as file:
            for weight in weights:
                key = (status.st_dev, status.st_ino, weight.sources, weight.packing)
                if key not in self._made:
                    entries = [_entry(path, index, name) for name in weight.sources]
                    arrays = _load(path, file, weight, entries)
                    self._made[key] = [self._from_array(array) for array in arrays]
                tensors += self._made[key]
        return tensors


def _entry(path: Path, index: dict[str, ParamEntry], name: str) -> ParamEntry:
    if name not in index:
        raise _unfit(path, f"{name} is missing")
    return index[name]


def _load(path: Path, file: Any, weight: CodeWeight, entries: list[ParamEntry]) -> list[Array]:
    """The weight's buffers, filled."""
    buffers: list[Array] = [aligned_zeros(buffer.shape, np.dtype(buffer.dtype)) for buffer in weight.buffers]
    main = entries[0]
    if main.shape != weight.shape:
        raise _unfit(path, f"{main.name} is {list(main.shape)}, the code reads {list(weight.shape)}")
    wanted = {"stored": weight.buffers[0].dtype, "int8": "int8"}.get(weight.packing, weight.packing)
    if main.dtype != wanted:
        raise _unfit(path, f"{main.name} is {main.dtype}, the code reads {wanted}")
    if weight.packing == "stored":
        flat = buffers[0].reshape(-1)
        step = _BLOCK_BYTES // flat.itemsize
        for start in range(0, flat.size, step):
            stop = min(flat.size, start + step)
            flat[start:stop] = _read(file, main, start, stop)
        return buffers
    rows, columns = weight.shape
    step = max(PANEL, _BLOCK_BYTES // max(1, columns * np.dtype(main.dtype).itemsize) // PANEL * PANEL)
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        block = _read(file, main, start * columns, stop * columns).reshape(stop - start, columns)
        panels = slice(start // PANEL, -(-stop // PANEL))
        buffers[0][panels] = int8_panels(block.view(np.int8)) if weight.packing == "int8" else float_panels(block)
    if weight.packing == "int8":
        scales = entries[1]
        if scales.dtype != "float16" or scales.nbytes != 2 * rows:
            raise _unfit(path, f"{scales.name} is {scales.dtype} {list(scales.shape)}, the code reads {rows} float16")
        buffers[1][...] = group_panels(_read(file, scales, 0, rows).reshape(rows, 1))
    return buffers


def _read(file: Any, entry: ParamEntry, start: int, stop: int) -> Array:
    """Elements [start, stop) of a tensor."""
    dtype = np.dtype(entry.dtype)
    file.seek(entry.offset + start * dtype.itemsize)
    values: Array = np.fromfile(file, dtype, stop - start)
    return values


def _unfit(path: Path, problem: str) -> InputError:
    return InputError(
        "E1611",
        f"{path} does not fit the graph beside it: {problem}",
        "compile the model again, or copy the artifact again from where it is whole",
    )
