"""The twin on disk: its weights, and the calls that every later form of it must answer alike (safetensors)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from xamc.compiler.weights.lazy import ArrayTensor, LazyTensor

Array = NDArray[np.generic]


@dataclass(frozen=True)
class TwinCall:
    """One call: feeds by graph input, and the oracle's outputs in the graph's order."""

    name: str
    feeds: Mapping[str, Array]
    output_names: Sequence[str]
    outputs: Sequence[Array]


def write_twin(path: Path, weights: Mapping[str, LazyTensor], calls: Sequence[TwinCall]) -> None:
    """Writes weights and calls. Dtypes safetensors doesn't know (four-bit codes) travel one element per byte."""
    tensors: dict[str, Array] = {}
    dtypes: dict[str, str] = {}

    def put(key: str, array: Array) -> None:
        dtypes[key] = array.dtype.name
        plain = array
        if array.dtype.name in ("uint4", "int4"):
            plain = array.astype(np.int8 if array.dtype.name == "int4" else np.uint8)
        elif array.dtype.name == "bfloat16":
            plain = array.view(np.uint16)
        tensors[key] = np.ascontiguousarray(plain)

    for name, tensor in weights.items():
        put(f"weight/{name}", tensor.read_rows(0, tensor.shape[0]))
    for number, call in enumerate(calls):
        for name, array in call.feeds.items():
            put(f"call/{number}/feed/{name}", array)
        for position, array in enumerate(call.outputs):
            put(f"call/{number}/output/{position}", array)
    names = [{"name": call.name, "outputs": list(call.output_names)} for call in calls]
    save_file(tensors, path, metadata={"calls": json.dumps(names), "dtypes": json.dumps(dtypes)})


def read_twin(path: Path) -> tuple[dict[str, LazyTensor], list[TwinCall]]:
    """Reads what `write_twin` wrote."""
    import ml_dtypes

    with safe_open(path, "np") as file:
        metadata = file.metadata()
        calls, dtypes = json.loads(metadata["calls"]), json.loads(metadata["dtypes"])
        arrays: dict[str, Array] = {}
        for key in file.keys():
            array = file.get_tensor(key)
            if dtypes[key] == "bfloat16":
                array = array.view(ml_dtypes.bfloat16)
            arrays[key] = array
    weights: dict[str, LazyTensor] = {
        key.removeprefix("weight/"): ArrayTensor(array) for key, array in arrays.items() if key.startswith("weight/")
    }
    result = []
    for number, call in enumerate(calls):
        prefix = f"call/{number}/feed/"
        feeds = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
        outputs = [arrays[f"call/{number}/output/{position}"] for position in range(len(call["outputs"]))]
        result.append(TwinCall(call["name"], feeds, call["outputs"], outputs))
    return weights, result
