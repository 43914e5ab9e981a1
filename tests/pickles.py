"""Checkpoint folders whose weights are pickles, as PyTorch writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


def to_pickles(folder: Path, shards: int = 1) -> dict[str, torch.Tensor]:
    """Replaces the safetensors of `folder` by pytorch_model.bin, or by `shards` of it with an index."""
    state: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        state |= load_file(file)
        file.unlink()
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    write_pickles(folder, state, shards)
    return state


def write_pickles(folder: Path, state: Mapping[str, Any], shards: int) -> None:
    """Writes `state`, in turns over the shards."""
    names = list(state)
    if shards == 1:
        torch.save(dict(state), folder / "pytorch_model.bin")
        return
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        part = {name: state[name] for name in names[number::shards]}
        torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


class Runs:
    """Unpickling an object of this class calls `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call
