"""What the simulator needs to know of a graph, read from its `mod.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xamc.errors import InputError

FORMAT = "xamc.vacc.graph"
VERSION = 1


@dataclass(frozen=True)
class Signature:
    """A tensor that goes into or comes out of a graph."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class CodeWeight:
    """One weight of the code: the tensors of mod.params it is made of, how they are packed, and its buffers."""

    sources: tuple[str, ...]
    packing: str
    shape: tuple[int, ...]
    buffers: tuple[Signature, ...]


@dataclass(frozen=True)
class GraphDescription:
    """A graph's signature and weights.

    Attributes:
        data: inputs that change from call to call, without the past.
        past: past_key.0, past_value.0, past_key.1, ...
        outputs: the logits, then the present caches in the order of `past`.
        weights: the weights tuple of the code.
    """

    data: tuple[Signature, ...]
    past: tuple[Signature, ...]
    outputs: tuple[Signature, ...]
    weights: tuple[CodeWeight, ...]


def read_description(path: Path) -> GraphDescription:
    """Reads a `mod.json`.

    Raises:
        InputError: E1620, it is missing, of another format or version, or lacks something.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if (value["format"], value["version"]) != (FORMAT, VERSION):
            raise _damaged(path, f"it is {value['format']!r} version {value['version']}, not {FORMAT!r} {VERSION}")
        inputs = tuple(_signature(entry) for entry in value["inputs"])
        return GraphDescription(
            data=tuple(entry for entry in inputs if not entry.name.startswith("past_")),
            past=tuple(entry for entry in inputs if entry.name.startswith("past_")),
            outputs=tuple(_signature(entry) for entry in value["outputs"]),
            weights=tuple(
                CodeWeight(
                    tuple(weight["sources"]),
                    weight["packing"],
                    tuple(weight["shape"]),
                    tuple(_signature(buffer) for buffer in weight["buffers"]),
                )
                for weight in value["simulator"]["weights"]
            ),
        )
    except OSError as error:
        raise _damaged(path, f"it can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _signature(entry: Any) -> Signature:
    return Signature(str(entry["name"]), tuple(int(dim) for dim in entry["shape"]), str(entry["dtype"]))


def _damaged(path: Path, problem: str) -> InputError:
    return InputError(
        "E1620",
        f"{path} is not a graph description of this version: {problem}",
        "compile the model again with this xamc, or copy the artifact again from where it is whole",
    )
