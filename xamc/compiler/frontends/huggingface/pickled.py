"""Pickled weights of a folder, opened in a child process and only where that is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from xamc.artifact.staging import temporary_folder
from xamc.compiler.frontends.safetensors import DTYPES, WIDTHS
from xamc.errors import InputError, ToolchainError, UnsupportedError
from xamc.ir.weights.files import FileTensor
from xamc.jobs.child import Limits, run_child

INDEX = "pytorch_model.bin.index.json"
SINGLE = "pytorch_model.bin"
SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
# What trainers leave beside the weights: settings and states as pickles, and adapters, which are no model.
_NO_WEIGHTS = re.compile(r"(adapter_model|training_args|optimizer|scheduler|scaler|rng_state|random_states)")
_SHARD = re.compile(r"pytorch_model-(\d{5})-of-(\d{5})\.bin")
# The child takes about 0.4 GiB for torch and the headers; the file's own pages are not touched.
LIMITS = Limits(seconds=900, memory_bytes=4 * 2**30)


def pickled_files(folder: Path) -> list[Path]:
    """The files of `folder` that hold pickled weights, in their order; a complete set of shards or a single file.

    Raises:
        InputError: E1114, shards are missing, or there are several files of which any could be meant.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    files = sorted(
        p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file() and not _NO_WEIGHTS.match(p.name)
    )
    shards = [(path, match) for path in files if (match := _SHARD.fullmatch(path.name))]
    if shards:
        count = int(shards[0][1][2])
        missing = sorted(set(range(1, count + 1)) - {int(match[1]) for _, match in shards})
        if missing or len({match[2] for _, match in shards}) > 1:
            raise InputError(
                "E1114",
                f"{folder} holds {len(shards)} of {count} shards of pytorch_model",
                "download all shards of the checkpoint",
                details=tuple(f"pytorch_model-{number:05d}-of-{count:05d}.bin" for number in missing[:20]),
            )
        return [path for path, _ in shards]
    if len(files) > 1:
        raise InputError(
            "E1114",
            f"{folder} holds {len(files)} pickled files and no {INDEX}",
            "download the index as well, or leave the one file of weights",
            details=tuple(path.name for path in files),
        )
    return files


def refuse_pickle(path: Path) -> UnsupportedError:
    """What is raised where pickles are not allowed."""
    return UnsupportedError(
        "E1116",
        f"{path} is a pickle, a program that runs when it is read",
        "add --allow-pickle to read it in a restricted child process, or convert it once with "
        f"`xamc convert-weights {path.parent} OUT` and compile OUT; best is a safetensors revision of the model",
        keys=("frontend.checkpoint",),
    )


def read_pickled(paths: Iterable[Path]) -> dict[Path, dict[str, tuple[str, FileTensor]]]:
    """File → tensor name → (safetensors' dtype name, reference), as `read_header` gives for safetensors.

    The pickles run in a child process that has torch's restricted unpickler and limits; this process never sees them.

    Raises:
        InputError: E1164 a file that asks for code, E1165 damaged or beyond the limits, E1166 tensors that are none.
    """
    files = list(paths)
    with temporary_folder("pickle") as folder:
        try:
            located: dict[str, dict[str, Any]] = run_child(
                "xamc.compiler.export.pickled_tensors:locate",
                [str(path.absolute()) for path in files],
                folder=folder,
                limits=LIMITS,
                reproducers=folder / "reproducer",  # and gone with it: such a file is not kept
                environment={"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "CUDA_VISIBLE_DEVICES": ""},
            )
        except ToolchainError as error:
            raise InputError(
                "E1165",
                f"reading {files[0]}{' and its shards' if len(files) > 1 else ''} went wrong: "
                + error.message.partition("; reproduce")[0],
                "download the file again; if it comes from a source that you don't know, don't load it anywhere",
                details=error.details[1:],
            ) from error
    return {path: _tensors(path, located[str(path.absolute())]) for path in files}


def _tensors(path: Path, located: dict[str, Any]) -> dict[str, tuple[str, FileTensor]]:
    size = path.stat().st_size
    tensors: dict[str, tuple[str, FileTensor]] = {}
    for name, (stored, shape, offset) in located.items():
        length = math.prod(shape) * WIDTHS[stored]
        if offset < 0 or offset + length > size:
            raise InputError("E1165", f"{path}: tensor {name} ends beyond the file's end", "download the file again")
        tensors[name] = (stored, FileTensor(path, offset, tuple(shape), DTYPES.get(stored, "uint8")))
    return tensors
