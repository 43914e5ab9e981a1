"""Which files of a Hugging Face folder hold its weights, and the tensors in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from xamc.compiler.errors import InputError
from xamc.compiler.frontends import pickled
from xamc.compiler.frontends.json_file import is_file_name, read_json
from xamc.compiler.frontends.safetensors import read_header
from xamc.compiler.weights.files import FileTensor

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

Tensors = dict[str, tuple[str, FileTensor]]
Reader = Callable[[Iterable[Path]], Mapping[Path, Tensors]]


@dataclass(frozen=True)
class StoredTensors:
    """A folder's weights.

    Attributes:
        tensors: name → (safetensors' dtype name, reference).
        index: the file that says which shard holds what, where there is one.
    """

    tensors: Tensors
    index: Path | None


def read_tensors(folder: Path, allow_pickle: bool = False) -> StoredTensors:
    """All tensors of the folder's safetensors files; of its pickles where there is nothing else.

    Raises:
        InputError: E1113 a bad index, E1114 a missing shard, E1115 a tensor in two shards, E1116 no weights; E1164 to
            E1166, see `read_pickled`.
        UnsupportedError: E1116 only pickles, and they are not allowed.
    """
    if (folder / INDEX).exists():
        return StoredTensors(_read_shards(folder, INDEX, ".safetensors", _read_headers), folder / INDEX)
    files = sorted(p for p in folder.glob("*.safetensors") if p.name != "consolidated.safetensors")
    if (folder / SINGLE).exists():
        files = [folder / SINGLE]
    if len(files) == 1:
        return StoredTensors(read_header(files[0]), None)
    if files:
        raise InputError(
            "E1114",
            f"{folder} holds {len(files)} safetensors files and no {INDEX}",
            "download the index as well",
            details=tuple(f.name for f in files),
        )
    return _read_pickles(folder, allow_pickle)


def _read_pickles(folder: Path, allowed: bool) -> StoredTensors:
    index = folder / pickled.INDEX
    if index.exists() and allowed:
        return StoredTensors(_read_shards(folder, pickled.INDEX, ".bin", pickled.read_pickled), index)
    files = [index] if index.exists() else pickled.pickled_files(folder)
    if not files:
        raise InputError(
            "E1116", f"{folder} holds no safetensors file", f"it needs {SINGLE}, or {INDEX} and its shards"
        )
    if not allowed:
        shards = sorted(folder.glob("pytorch_model*.bin"))
        raise pickled.refuse_pickle(shards[0] if shards else files[0])
    return StoredTensors(_joined(pickled.read_pickled(files)), None)


def _read_headers(paths: Iterable[Path]) -> dict[Path, Tensors]:
    return {path: read_header(path) for path in paths}


def _joined(shards: Mapping[Path, Tensors]) -> Tensors:
    tensors: Tensors = {}
    for shard, content in shards.items():
        for name, entry in content.items():
            if name in tensors:
                raise InputError(
                    "E1115",
                    f"the tensor {name} is stored twice, in {tensors[name][1].path} and in {shard}",
                    "download the checkpoint again",
                )
            tensors[name] = entry
    return tensors


def _read_shards(folder: Path, index_name: str, suffix: str, read: Reader) -> Tensors:
    index = folder / index_name
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError("E1113", f"{index} has no weight_map", "download the index again")
    for name, file in weight_map.items():
        # A shard is a plain name in the folder; anything else would read outside of the checkpoint.
        if not isinstance(file, str) or not file.endswith(suffix) or not is_file_name(file):
            raise InputError(
                "E1113",
                f"{index} places {name} in {file!r}, which is not a file name beside it",
                "download the index again",
            )
    shards = [folder / file for file in sorted(set(weight_map.values()))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise InputError(
            "E1114",
            f"{folder / missing[0]} is missing ({len(missing)} of {len(shards)} shards are)",
            "download all shards of the checkpoint",
            details=tuple(missing),
        )
    tensors = _joined(read(shards))
    for name, file in weight_map.items():
        if name not in tensors or tensors[name][1].path != folder / file:
            raise InputError(
                "E1113", f"{index} places {name} in {file}, which doesn't hold it", "download index and shards again"
            )
    return tensors
