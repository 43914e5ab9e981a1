"""A twin's weights on disk (safetensors), for the child process that lowers it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from xamc.ir.weights.lazy import ArrayTensor, LazyTensor, numpy_dtype

# dtypes that NumPy has only through ml_dtypes, and the plain dtype their bits travel in
_CARRIERS = {"uint4": np.uint8, "int4": np.int8, "bfloat16": np.uint16}


def write_weights(path: Path, weights: Mapping[str, LazyTensor]) -> None:
    """Writes whole tensors; four-bit codes travel one per byte."""
    tensors: dict[str, NDArray[np.generic]] = {}
    dtypes: dict[str, str] = {}
    for name, tensor in weights.items():
        array = tensor.read_rows(0, tensor.shape[0])
        dtypes[name] = array.dtype.name
        carrier = _CARRIERS.get(array.dtype.name)
        tensors[name] = np.ascontiguousarray(array if carrier is None else array.view(carrier))
    save_file(tensors, path, metadata=dtypes)


def read_weights(path: Path) -> dict[str, LazyTensor]:
    """Reads what `write_weights` wrote."""
    with safe_open(path, "np") as file:
        dtypes = file.metadata()
        names: list[str] = file.keys()
        arrays = {name: file.get_tensor(name) for name in names}
    return {
        name: ArrayTensor(array.view(numpy_dtype(dtypes[name])) if dtypes[name] in _CARRIERS else array)
        for name, array in arrays.items()
    }


def content_digest(path: Path) -> str:
    """SHA-256 of what a safetensors file holds; its writer puts metadata in another order each time."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:begin]), sort_keys=True).encode()
    return hashlib.sha256(header + data[begin:]).hexdigest()
