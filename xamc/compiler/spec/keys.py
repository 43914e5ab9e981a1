"""The registry of keys: what each may hold, what it means, and what each target does with it.

The tables are in `vamc_keys` (vamc's own, as they occur in the field) and `xamc_keys` (what xamc adds). Checks, the
JSON Schema, `key_uses` and the reference in docs/spec.md all come from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from xamc.compiler.spec.kinds import Kind, Mismatch

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
