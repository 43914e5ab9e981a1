"""The registry of keys: what each may hold, what it means, and what each target does with it.

The tables are in `vamc_keys` (vamc's own, as they occur in the field) and `xamc_keys` (what xamc adds). Checks, the
JSON Schema, `key_uses` and the reference in docs/spec.md all come from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal

from xamc.compiler.spec.kinds import Anything, Kind, Mismatch, Text
from xamc.compiler.spec.model import KeyPath

Use = Literal["used", "recorded", "no effect"]

TARGETS = ("tvm_cpu", "tvm_vacc", "tvm_ascend", "reference")

#: Reasons of many keys.
READ_BY_ALL = "read by every target"
KEPT_FOR_VAMC = "kept for vamc; xamc's own code for VACC does not read it"

#: Sections that xamc adds: an unknown key in them is an error.
XAMC_SECTIONS = ("passes", "verify", "runtime")

#: Sections that are mappings of known keys; everything else is a value.
SECTIONS = (
    "frontend",
    "frontend.shape",
    "frontend.model_kwargs",
    "frontend.quantize",
    "frontend.quantize.calib_args",
    "graph",
    "graph.extra_ops",
    "graph.extra_ops.params",
    "backend",
    "backend.compile",
    "backend.quantize",
    "backend.dynamic_params",
    "backend.dynamic_compile",
    "dataset",
    "dataset.sampler",
    "workspace",
    *XAMC_SECTIONS,
)


@dataclass(frozen=True)
class Uses:
    """What each target does with a key, and why."""

    by_target: Mapping[str, tuple[Use, str]] = field(default_factory=dict)

    def of(self, target: str) -> tuple[Use, str]:
        """Use and reason on one target."""
        return self.by_target[target]


def everywhere(use: Use, reason: str) -> Uses:
    """The same on every target."""
    return Uses(dict.fromkeys(TARGETS, (use, reason)))


def on(targets: Mapping[str, tuple[Use, str]], otherwise: tuple[Use, str]) -> Uses:
    """Per target, with one entry for all others."""
    return Uses({target: targets.get(target, otherwise) for target in TARGETS})


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        path: dotted; a last part `*` stands for names that the user chooses.
        kind: what it may hold.
        meaning: one sentence; says so when the meaning is not publicly known.
        uses: per target.
        default: in words; empty when there is none.
        strict: whether a value of another kind is an error; for keys that xamc only records it is a warning.
    """

    path: str
    kind: Kind
    meaning: str
    uses: Uses
    default: str = ""
    strict: bool = True

    @property
    def parts(self) -> tuple[str, ...]:
        """The path, split."""
        return tuple(self.path.split("."))

    def takes(self, value: Any) -> bool:
        """Whether a value, as YAML gives it, is one that the key may hold."""
        problems: list[Mismatch] = []
        self.kind.read(value, (), lambda path: None if isinstance(value, list | dict) else str(value), problems)
        return not problems


@cache
def registry() -> Mapping[str, Key]:
    """Dotted path → key, in the order of the reference."""
    from xamc.compiler.spec import vamc_keys, xamc_keys  # the tables import this module

    keys = [*vamc_keys.KEYS, *xamc_keys.KEYS]
    order = {section: index for index, section in enumerate(("", *SECTIONS))}
    keys.sort(key=lambda key: order.get(key.path.rpartition(".")[0], len(order)))
    return {key.path: key for key in keys}


def find(path: KeyPath) -> Key | None:
    """The key at a path of names, or the `*` key that covers it."""
    if not path or not all(isinstance(part, str) for part in path):
        return None
    keys = registry()
    names = [str(part) for part in path]
    if "*" in names:
        return None
    if any("." in name for name in names):  # a name with a dot is the user's, never a registered one
        return keys.get(".".join([*names[:-1], "*"])) if not any("." in name for name in names[:-1]) else None
    return keys.get(".".join(names)) or keys.get(".".join([*names[:-1], "*"]))


def is_section(path: KeyPath) -> bool:
    """Whether the path is a mapping of known keys."""
    return not path or ".".join(str(part) for part in path) in SECTIONS


def is_strict(path: KeyPath) -> bool:
    """Whether an unknown key at this path is an error: it lies in one of xamc's own sections."""
    return len(path) > 1 and path[0] in XAMC_SECTIONS


@cache
def names_in(section: str) -> tuple[str, ...]:
    """Names of the keys and sections directly below a section, `''` being the top level."""
    names: dict[str, None] = {}
    for path in (*SECTIONS, *registry()):
        parent, _, name = path.rpartition(".")
        if parent == section and name != "*":
            names[name] = None
    return tuple(names)


def suggest(path: KeyPath, value: Any = None) -> str | None:
    """The known key that an unknown one was probably meant to be.

    A similar name in the same section comes first, then the same name elsewhere (a misplaced key), then a similar name
    elsewhere. Of several places elsewhere it is one whose key takes `value`, if there is one, and then the nearest.
    """
    *parents, name = (str(part) for part in path)
    section = ".".join(parents)
    near = _similar(name, names_in(section), 0.75)
    if near is not None:
        return f"{section}.{near}" if section else near
    known: dict[str, list[str]] = {}
    for other in (*SECTIONS, *registry()):
        known.setdefault(other.rpartition(".")[2], []).append(other)
    for similar in (name, _similar(name, [other for other in known if len(other) > 3], 0.8)):
        places = known.get(similar or "", [])
        if places:
            return _nearest(_fitting(places, value) or places, parents)
    return None


def _similar(name: str, names: Iterable[str], cutoff: float) -> str | None:
    """The most similar of some names; capitals, and what stands between words, are other tools' habits."""
    plain = {other.replace("_", ""): other for other in names}
    near = get_close_matches(re.sub(r"[\s_-]", "", name).lower(), plain, 1, cutoff)
    return plain[near[0]] if near else None


def _fitting(paths: Iterable[str], value: Any) -> list[str]:
    """The paths of keys that take a value, those first that take few others."""
    keys = [registry()[path] for path in paths if path in registry() and value is not None]
    taking = [key for key in keys if key.takes(value)]
    choosy = [key for key in taking if not isinstance(key.kind, Text | Anything)]
    return [key.path for key in choosy or taking]


def _nearest(paths: Iterable[str], parents: list[str]) -> str | None:
    """The path that shares most leading parts with `parents`."""

    def shared(path: str) -> int:
        count = 0
        for ours, theirs in zip(parents, path.split(".")):
            if ours != theirs:
                break
            count += 1
        return count

    return max(paths, key=shared, default=None)
