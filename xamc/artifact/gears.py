"""gears.json: how the graphs of an Ascend artifact are driven; written by the compiler, read by the runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xamc.artifact.records import RecordError, from_json, to_json
from xamc.errors import InputError

GEARS = "gears.json"
FORMAT = "xamc.ascend.gears"


@dataclass(frozen=True)
class GearEntry:
    """One choice of a graph's sizes: sequences per call, and tokens of a prefill or slots that a decode looks at."""

    batch: int
    length: int


@dataclass(frozen=True)
class GraphEntry:
    """One ONNX file.

    Attributes:
        file: its name in the artifact.
        kind: the phase.
        gears: what it can be driven in, smallest first.
        inputs: input name -> shape, -1 where gears decide, sorted by name as ATC and GE have them.
    """

    file: str
    kind: Literal["prefill", "decode"]
    gears: tuple[GearEntry, ...]
    inputs: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        if not self.gears:
            raise RecordError("gears", "a graph has none")


@dataclass(frozen=True)
class Gears:
    """All graphs, and the KV cache they share: rows for sequences, slots for their tokens."""

    format: str
    version: int
    rows: int
    capacity: int
    graphs: tuple[GraphEntry, ...]

    def __post_init__(self) -> None:
        if (self.format, self.version) != (FORMAT, 1):
            raise RecordError("format", f"{self.format} version {self.version}, not {FORMAT} version 1")
        if {graph.kind for graph in self.graphs} != {"prefill", "decode"}:
            raise RecordError("graphs", "there is not a graph of each phase")


def gears_text(gears: Gears) -> str:
    """The file's text."""
    return json.dumps(to_json(gears), indent=1) + "\n"


def read_gears(path: Path) -> Gears:
    """Reads gears.json.

    Raises:
        InputError: E1502, it is missing or damaged.
    """
    try:
        return from_json(Gears, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError("E1502", f"{path}: {error}", fix="compile the model again") from None
