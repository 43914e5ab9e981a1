"""Taking a model's parameters out of a checkpoint with every name and shape checked."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xamc.errors import InputError
from xamc.ir.weights.lazy import LazyTensor
from xamc.ir.weights.transforms import Zeros
from xamc.model.parameters import Shape


@dataclass
class TensorSource:
    """A checkpoint's tensors by their own names; `take` checks each and remembers what is missing or wrong.

    Problems are collected, so that one error lists them all: a checkpoint of another size gets every shape wrong, and
    the first few together tell the story.

    Args:
        tensors: stored tensors by the checkpoint's names.
        file_of: the file a name is stored in, for messages.
        source: folder or file of the checkpoint.
        harmless: whether a name may stay unused (rotary tables, a tied head).
        raw_config: config.json as it stands, for a family whose mapping depends on a key of its own.
        config_name: what describes the model, for messages.
        remedy: what helps where tensors and description disagree.
        missing_remedy: what helps where tensors are missing.
    """

    tensors: Mapping[str, LazyTensor]
    file_of: Callable[[str], Path]
    source: Path
    harmless: Callable[[str], bool]
    raw_config: Mapping[str, Any] = field(default_factory=dict)
    config_name: str = "config.json"
    remedy: str = "config.json and the weights must come from the same model"
    missing_remedy: str = "download all shards of the checkpoint; config.json must belong to it"
    taken: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def take(self, name: str, shape: Shape) -> LazyTensor:
        """The tensor `name`, which must have `shape`; zeros stand in for a problem until `finish` raises it."""
        self.taken.add(name)
        tensor = self.tensors.get(name)
        if tensor is None:
            self.missing.append(name)
            return Zeros(shape, "float32")
        if tensor.shape != shape:
            found, wanted = list(tensor.shape), list(shape)
            self.mismatched.append(
                f"{name} in {self.file_of(name)}: {self.config_name} asks for {wanted}, found {found}"
            )
            return Zeros(shape, "float32")
        return tensor

    def finish(self) -> tuple[str, ...]:
        """Names of harmless unused tensors.

        Raises:
            InputError: E1122 wrong shapes, E1120 missing tensors, E1121 tensors the config has no place for.
        """
        if self.mismatched:
            raise InputError(
                "E1122",
                f"config and weights disagree: {self.mismatched[0]}" + _and_more(self.mismatched),
                self.remedy,
                details=tuple(self.mismatched[:20]),
            )
        unused = sorted(self.tensors.keys() - self.taken)
        extra = [name for name in unused if not self.harmless(name)]
        if self.missing:
            close = difflib.get_close_matches(self.missing[0], extra, n=1)
            hint = f" (it holds {close[0]})" if close else ""
            raise InputError(
                "E1120",
                f"{self.source} lacks the tensor {self.missing[0]}{hint}" + _and_more(self.missing),
                self.missing_remedy,
                details=tuple(self.missing[:20]),
            )
        if extra:
            raise InputError(
                "E1121",
                f"{self.file_of(extra[0])} holds the tensor {extra[0]}, which the model of {self.config_name} has no "
                "place for" + _and_more(extra),
                self.remedy,
                details=tuple(extra[:20]),
            )
        return tuple(unused)


def _and_more(items: list[str]) -> str:
    return f" (and {len(items) - 1} more)" if len(items) > 1 else ""
