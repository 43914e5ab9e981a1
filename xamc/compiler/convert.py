"""`xamc convert-weights`: pickles, GGUF files and other layouts as a folder of safetensors, streamed block by block."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xamc.artifact.staging import StagingFolder, disk_errors, free_bytes
from xamc.compiler.frontends import Checkpoint, open_checkpoint
from xamc.compiler.frontends.checkpoint import resolve_checkpoint
from xamc.compiler.frontends.config_reader import ConfigReader
from xamc.compiler.frontends.configuration import rope_parameters
from xamc.compiler.frontends.families import find_family
from xamc.compiler.frontends.huggingface.checkpoint import BUFFERS
from xamc.compiler.frontends.huggingface.layouts import Layout, apply_layout, read_layout
from xamc.compiler.frontends.huggingface.tied_head import are_different, read_parameters
from xamc.compiler.frontends.huggingface.weight_files import NAMED, read_tensors
from xamc.compiler.frontends.json_file import read_json
from xamc.compiler.frontends.safetensors import require_float
from xamc.compiler.frontends.tensor_source import TensorSource
from xamc.compiler.frontends.tokenizers.chat_templates import TEMPLATES
from xamc.compiler.handoff.safetensors_shards import SHARD_BYTES, tensor_bytes, write_shards
from xamc.errors import InputError, MisuseError
from xamc.ir.weights.lazy import LazyTensor
from xamc.ir.weights.transforms import FLOATS, Cast
from xamc.jobs.progress import Progress, size
from xamc.model.families import family_of
from xamc.model.layer import EMBEDDING_WEIGHT, HEAD_WEIGHT

# What goes along from a Hugging Face folder: data, never a Python file or another weight file.
_BESIDE = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json", "vocab.json",
    "merges.txt", "LICENSE", "README.md",
)  # fmt: skip
FAMILY = "family"


@dataclass(frozen=True)
class Conversion:
    """What is written.

    Attributes:
        tensors: by the name they get.
        files: the small files beside them; a Path is copied.
        left_out: stored tensors that are computed anew from the config, such as rotary tables.
        warnings: what of the source is left out or taken otherwise than it may seem; one sentence each.
    """

    tensors: Mapping[str, LazyTensor]
    files: Mapping[str, bytes | Path]
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def convert_weights(
    source: Path | str,
    destination: Path,
    progress: Progress,
    layout: str | None = None,
    dtype: str = "source",
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Writes the folder `destination`, which appears when it is whole.

    Args:
        source: a folder with safetensors or pickles, or a .gguf file.
        destination: doesn't exist, or is empty.
        progress: where the stages are shown.
        layout: how the source's tensors are fused and named, see `frontends.huggingface.layouts`; ``family`` for
            those that the family of config.json maps itself.
        dtype: float32, float16, bfloat16, or source for the stored one (float32 for GGUF's blocks).
        shard_bytes: largest data of one file.

    Returns:
        What was written, for scripts.

    Raises:
        MisuseError: E1718 the destination holds something, E1168 and E1719 words that don't exist.
        InputError: E1720 the disk is too small, and what opening a checkpoint raises.
    """
    if dtype not in ("source", *FLOATS):
        raise MisuseError("E1719", f"--dtype {dtype!r} doesn't exist", f"use source, {', '.join(FLOATS)}")
    table = None if layout in (None, FAMILY) else read_layout(str(layout))
    destination = Path(os.path.realpath(destination))
    _require_empty(destination)
    with progress.stage("open") as stage:
        path = resolve_checkpoint(source)
        conversion = _open(path, table, layout == FAMILY)
        tensors = {name: _stored_as(tensor, dtype, name) for name, tensor in conversion.tensors.items()}
        needed = sum(map(tensor_bytes, tensors.values()))
        stage.result(f"{len(tensors)} tensors, {size(needed)}")
    for warning in conversion.warnings:
        progress.warn(warning)
    for name in conversion.left_out[:1]:
        progress.warn(f"{len(conversion.left_out)} tensors are left out, {name} is the first: they are computed anew")
    with StagingFolder(destination, _require_empty) as staging:
        if needed > (free := free_bytes(destination)):
            raise InputError(
                "E1720",
                f"the weights take {size(needed)}, {destination.parent} has {size(free)} free",
                "free space, choose another folder, or store less: --dtype float16",
            )
        with disk_errors(destination), progress.stage("write") as stage:
            total = sum(math.prod(tensor.shape) for tensor in tensors.values())
            written = write_shards(staging.folder, tensors, shard_bytes, stage.counter(total, "parameters"))
            for name, content in _with_dtype(conversion.files, dtype).items():
                (staging.folder / name).parent.mkdir(exist_ok=True)
                if isinstance(content, Path):
                    shutil.copyfile(content, staging.folder / name)
                else:
                    (staging.folder / name).write_bytes(content)
            stage.result(f"{total / 1e6:.1f} M parameters in {sum(n.endswith('.safetensors') for n in written)} files")
        staging.put_in_place()
    return {
        "path": str(destination),
        "nbytes": needed,
        "files": sorted([*written, *conversion.files]),
        "left_out": list(conversion.left_out),
        "stages": progress.summary(),
    }


def _require_empty(destination: Path) -> None:
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise MisuseError("E1718", f"{destination} exists and is not an empty folder", "choose a new folder")


def _stored_as(tensor: LazyTensor, dtype: str, name: str) -> LazyTensor:
    return tensor if dtype in ("source", tensor.dtype) else Cast(tensor, dtype, name)


def _with_dtype(files: Mapping[str, bytes | Path], dtype: str) -> dict[str, bytes | Path]:
    """`files` with a config.json that names `dtype` where all weights were cast to it."""
    config = files.get("config.json")
    if dtype == "source" or config is None:
        return dict(files)
    values = json.loads(config) if isinstance(config, bytes) else read_json(config)
    values.pop("dtype", None)  # transformers 5's name for it
    return {**files, "config.json": _json({**values, "torch_dtype": dtype})}


def _open(path: Path, table: Layout | None, by_family: bool) -> Conversion:
    holds_gguf = path.is_dir() and not (path / "config.json").exists() and any(path.glob("*.gguf"))
    if path.suffix == ".gguf" or holds_gguf:
        if table is not None:
            raise MisuseError(
                "E1719", "--layout is for folders: a GGUF file says its layout itself", "leave --layout out"
            )
        return _standard(open_checkpoint(path, "gguf"), {})
    if by_family:
        checkpoint = open_checkpoint(path, "huggingface", allow_pickle=True)
        beside = {name: path / name for name in ("LICENSE", "README.md") if (path / name).is_file()}
        return _standard(checkpoint, beside)
    if not path.is_dir():
        raise InputError(
            "E1101", f"{path} is neither a folder nor a .gguf file", "give the folder that holds config.json"
        )
    config_file = path / "config.json"
    values = read_json(config_file) if config_file.is_file() else {}
    found = read_tensors(path, allow_pickle=True, named=values.get(NAMED))
    left_out = tuple(sorted(name for name in found.tensors if name.endswith(BUFFERS)))
    tensors: dict[str, LazyTensor] = {}
    for name, (stored, tensor) in found.tensors.items():
        if name not in left_out:
            require_float(tensor.path, name, stored)
            if not tensor.shape:
                raise InputError("E1166", f"{tensor.path}: {name} is a single number", "leave it out of the file")
            tensors[name] = tensor
    files: dict[str, bytes | Path] = {name: path / name for name in _BESIDE if (path / name).is_file()}
    files |= {f"{TEMPLATES}/{file.name}": file for file in sorted((path / TEMPLATES).glob("*.jinja")) if file.is_file()}
    warnings = list(found.warnings)
    if table is not None:
        tensors, untied = _standard_names(path, table, tensors)
    else:
        untied = values.get("tie_word_embeddings") is True and _holds_two_matrices(tensors)
    if untied or NAMED in values:
        # the files are named anew, and what reads the result need not compare the two matrices
        kept = {key: value for key, value in values.items() if key != NAMED}
        files["config.json"] = _json({**kept, "tie_word_embeddings": False} if untied else kept)
    if untied:
        warnings.append(
            f"{config_file} ties the output matrix to the embedding, and the weights hold two that differ: both are "
            "written, with tie_word_embeddings false"
        )
    return Conversion(tensors, files, left_out, tuple(warnings))


def _holds_two_matrices(tensors: Mapping[str, LazyTensor]) -> bool:
    """Whether an embedding and another output matrix are stored, by transformers' names."""
    bare = EMBEDDING_WEIGHT.removeprefix("model.")
    embedding, head = tensors.get(bare, tensors.get(EMBEDDING_WEIGHT)), tensors.get(HEAD_WEIGHT)
    return embedding is not None and head is not None and are_different(embedding, head)


def _standard_names(path: Path, table: Layout, tensors: Mapping[str, LazyTensor]) -> tuple[dict[str, LazyTensor], bool]:
    """(tensors by the names of the family, whether they untie what config.json ties).

    The family must find all it needs, in the right shapes, and nothing else.
    """
    reader = ConfigReader(read_json(path / "config.json"), path / "config.json")
    family = find_family(reader)
    config = family.configure(reader)
    renamed = apply_layout(table, tensors, config)
    spare = family.head_name if config.tie_word_embeddings else None
    check = TensorSource(renamed, lambda name: path, path, lambda name: name == spare, reader.values)
    found, _ = read_parameters(family, config, check)
    unused = check.finish()
    untied = config.tie_word_embeddings and not found.tie_word_embeddings
    return {name: tensor for name, tensor in renamed.items() if name not in unused}, untied


def _standard(checkpoint: Checkpoint, beside: Mapping[str, Path]) -> Conversion:
    """An opened checkpoint under the names of its transformers class, with a config.json of that class."""
    config = checkpoint.config
    rope = rope_parameters(config.rope)
    values: dict[str, Any] = {
        "architectures": [config.architecture],
        "model_type": family_of(config).model_type,
        **{key: value for key, value in config.hf_config.items() if key != "rope_parameters"},
        # the spelling that transformers 4 and 5 both read
        "rope_theta": rope.pop("rope_theta"),
        "rope_scaling": None if config.rope.kind == "default" else rope,
        "torch_dtype": checkpoint.tensors[EMBEDDING_WEIGHT].dtype,
    }
    defaults = {key: value for key, value in vars(checkpoint.generation).items() if value not in (None, ())}
    generation = {"bos_token_id": config.bos_token_id, "eos_token_id": list(config.eos_token_ids) or None, **defaults}
    files: dict[str, bytes | Path] = {
        "config.json": _json(values),
        "generation_config.json": _json({key: value for key, value in generation.items() if value is not None}),
        **checkpoint.tokenizer,
        **beside,
    }
    return Conversion(checkpoint.tensors, files, checkpoint.unused_tensors, checkpoint.warnings)


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode()
