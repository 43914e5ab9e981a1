"""Which files of a Hugging Face folder hold its weights, and the tensors in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from xamc.compiler.frontends.huggingface import pickled
from xamc.compiler.frontends.json_file import is_file_name, read_json
from xamc.compiler.frontends.safetensors import read_header
from xamc.errors import InputError
from xamc.ir.weights.files import FileTensor
from xamc.model.layer import HEAD

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# config.json's word for another name of either, which transformers obeys
NAMED = "transformers_weights"
# peft's names, and mlx-lm's
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors")
MERGE = "merge it into its base model with peft (`merge_and_unload`), save that, and compile the folder it was saved in"
# The output matrix: the index of a tied model may name it though no shard holds it. One that is needed is missed later.
_HEADS = tuple(f"{name}.weight" for name in (HEAD.name, HEAD.meta))
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")

Tensors = dict[str, tuple[str, FileTensor]]
Reader = Callable[[Iterable[Path]], Mapping[Path, Tensors]]


@dataclass(frozen=True)
class StoredTensors:
    """A folder's weights.

    Attributes:
        tensors: name → (safetensors' dtype name, reference).
        index: the file that says which shard holds what, where there is one.
        warnings: what lies beside the weights or twice in them, and is not read; one sentence each.
    """

    tensors: Tensors
    index: Path | None
    warnings: tuple[str, ...] = ()


def read_tensors(folder: Path, allow_pickle: bool = False, named: object = None) -> StoredTensors:
    """All tensors of the folder's safetensors files; of its pickles where there is nothing else.

    The order is transformers': the file that config.json names, the single file, the index with its shards.

    Args:
        folder: the checkpoint.
        allow_pickle: whether pickles are read where there is nothing else.
        named: config.json's ``transformers_weights``.

    Raises:
        InputError: E1104 a `named` that is no file name, E1113 a bad index, E1114 a missing shard, E1115 a tensor in
            two shards, E1116 no weights; E1164 to E1166, see `read_pickled`.
        UnsupportedError: E1116 only pickles, and they are not allowed.
    """
    found = _read(folder, allow_pickle, named)
    adapters = [name for name in ADAPTERS if (folder / name).is_file()]
    if adapters:
        text = f"the adapter beside the weights ({', '.join(adapters)}) in {folder} is not applied; to have it, {MERGE}"
        found = replace(found, warnings=(*found.warnings, text))
    return found


def _read(folder: Path, allow_pickle: bool, named: object) -> StoredTensors:
    if named is not None:
        return _read_named(folder, named)
    if (folder / SINGLE).is_file():
        return StoredTensors(read_header(folder / SINGLE), None, _left_out(folder, SINGLE, INDEX))
    if (folder / INDEX).exists():
        return _read_shards(folder, INDEX, ".safetensors", _read_headers)
    files = _candidates(folder)
    if len(files) == 1:
        return StoredTensors(read_header(files[0]), None)
    if shards := _whole_set(files):
        text = f"{folder} holds no {INDEX}: all {len(shards)} shards are read, whatever tensors they hold"
        return StoredTensors(_joined(_read_headers(shards)), None, (text,))
    if files:
        raise InputError(
            "E1114",
            f"{folder} holds {len(files)} safetensors files and no {INDEX}",
            "download the index as well",
            details=tuple(f.name for f in files),
        )
    return _read_pickles(folder, allow_pickle)


def _candidates(folder: Path) -> list[Path]:
    """Files that may hold the model where no index says so; Mistral's own ``consolidated`` ones have other names."""
    files = sorted(folder.glob("*.safetensors"))
    return [path for path in files if path.name not in ADAPTERS and not path.name.startswith("consolidated")]


def _whole_set(files: list[Path]) -> list[Path]:
    """`files`, if they are the shards of one model and none is missing."""
    matches = [match for path in files if (match := _SHARD.fullmatch(path.name))]
    names = {(match[1], match[3]) for match in matches}
    numbers = [int(match[2]) for match in matches]
    whole = len(names) == 1 and len(matches) == len(files) and numbers == list(range(1, int(matches[0][3]) + 1))
    return files if whole else []


def _read_named(folder: Path, named: object) -> StoredTensors:
    if not isinstance(named, str) or not named.endswith((".safetensors", ".index.json")) or not is_file_name(named):
        raise InputError(
            "E1104",
            f"{folder / 'config.json'}: {NAMED} is {named!r}, expected a .safetensors file or an index of such",
            f"give the name of a file in the folder, or remove {NAMED}",
        )
    if not (folder / named).is_file():
        raise InputError(
            "E1116", f"{folder} lacks {named}, which config.json names in {NAMED}", "download that file as well"
        )
    if named.endswith(".safetensors"):
        return StoredTensors(read_header(folder / named), None)
    return _read_shards(folder, named, ".safetensors", _read_headers)


def _left_out(folder: Path, single: str, index: str) -> tuple[str, ...]:
    """A warning where the index beside the single file speaks of other files."""
    if not (folder / index).is_file():
        return ()
    weight_map = read_json(folder / index).get("weight_map")
    files = {str(file) for file in weight_map.values()} if isinstance(weight_map, dict) else set()
    if files == {single}:
        return ()
    return (
        f"{folder} holds {single} and {index} with {len(files)} shards: {single} is read, as transformers does, and "
        "the rest is left out; remove the one that isn't meant",
    )


def _read_pickles(folder: Path, allowed: bool) -> StoredTensors:
    single = (folder / pickled.SINGLE).is_file()
    index = folder / pickled.INDEX
    by_index = index.exists() and not single
    if by_index and allowed:
        return _read_shards(folder, pickled.INDEX, ".bin", pickled.read_pickled)
    files = [index] if by_index else pickled.pickled_files(folder)
    if not files:
        if adapters := [name for name in ADAPTERS if (folder / name).is_file()]:
            raise InputError("E1116", f"{folder} holds an adapter ({', '.join(adapters)}) and no model", MERGE)
        raise InputError(
            "E1116", f"{folder} holds no safetensors file", f"it needs {SINGLE}, or {INDEX} and its shards"
        )
    if not allowed:
        shards = sorted(folder.glob("pytorch_model*.bin"))
        raise pickled.refuse_pickle(shards[0] if shards else files[0])
    warnings = _left_out(folder, pickled.SINGLE, pickled.INDEX) if single else ()
    return StoredTensors(_joined(pickled.read_pickled(files)), None, warnings)


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


def _read_shards(folder: Path, index_name: str, suffix: str, read: Reader) -> StoredTensors:
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
        others = [path for path in _candidates(folder) if path not in shards]
        advice = f"; if its {len(others)} other safetensors files are the model, remove {index_name}"
        raise InputError(
            "E1114",
            f"{folder / missing[0]} is missing ({len(missing)} of {len(shards)} shards are)",
            "download all shards of the checkpoint" + (advice if _whole_set(others) else ""),
            details=tuple(missing),
        )
    read_shards = read(shards)
    tensors: Tensors = {}
    held_somewhere = {name for held in read_shards.values() for name in held}
    for name, file in weight_map.items():
        entry = read_shards[folder / file].get(name)
        if entry is not None:
            tensors[name] = entry
        elif name not in held_somewhere and not name.endswith(_HEADS):
            raise InputError(
                "E1113", f"{index} places {name} in {file}, which doesn't hold it", "download index and shards again"
            )
    # The index says which copy of a tensor counts; what it doesn't name, or names in the wrong shard, is taken from the
    # one that has it, as transformers does.
    rest = _joined({path: {n: e for n, e in held.items() if n not in tensors} for path, held in read_shards.items()})
    moved = [name for name, file in weight_map.items() if name not in tensors]
    warnings = _copies(index, tensors, read_shards)
    if moved:
        more = f" (and {len(moved) - 1} more)" if len(moved) > 1 else ""
        where = f"{rest[moved[0]][1].path.name} does" if moved[0] in rest else "no shard does"
        warnings += (f"{index} places {moved[0]}{more} in {weight_map[moved[0]]}, which doesn't hold it: {where}",)
    return StoredTensors({**tensors, **rest}, index, warnings)


def _copies(index: Path, tensors: Tensors, shards: Mapping[Path, Tensors]) -> tuple[str, ...]:
    """A warning about tensors that lie in more shards than the one that the index names."""
    copies = [(name, path) for path, held in shards.items() for name in held if name in tensors]
    copies = [(name, path) for name, path in copies if tensors[name][1].path != path]
    if not copies:
        return ()
    name, path = copies[0]
    more = f" (and {len(copies) - 1} more)" if len(copies) > 1 else ""
    return (
        f"{path} holds a copy of {name}{more}, which {index.name} places in {tensors[name][1].path.name}: the copy is "
        "left out",
    )
