"""What a target does with the keys of a spec, and the keys and rules of its own; read whenever a spec is.

Targets know nothing of YAML: a rule is given values that have been read, and where they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from xamc.errors import InputError, Location
from xamc.targets.spec_kinds import Kind, Mismatch

Use = Literal["used", "recorded", "no effect"]

DEFAULT_MAX_BATCH = 8

KEPT_FOR_VAMC = "kept for vamc; xamc's own code for VACC does not read it"


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        path: dotted; a last part `*` stands for names that the user chooses.
        kind: what it may hold.
        meaning: one sentence; says so when the meaning is not publicly known.
        use: what targets do with it that say nothing else, and why.
        default: in words; empty when there is none.
        strict: whether a value of another kind is an error; for keys that xamc only records it is a warning.
        for_vamc: whether it only means something to VACC's closed compiler; see `SpecKeys.for_vamc`.
    """

    path: str
    kind: Kind
    meaning: str
    use: tuple[Use, str]
    default: str = ""
    strict: bool = True
    for_vamc: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """The path, split."""
        return tuple(self.path.split("."))

    def takes(self, value: Any) -> bool:
        """Whether a value, as YAML gives it, is one that the key may hold."""
        problems: list[Mismatch] = []
        self.kind.read(value, (), lambda path: None if isinstance(value, list | dict) else str(value), problems)
        return not problems


class SpecValues(Protocol):
    """A spec as a rule sees it."""

    def get(self, path: str) -> Any:
        """Value of a key by its dotted path; None when absent, null or wrong."""

    def at(self, path: str, note: str = "") -> tuple[Location, ...]:
        """Where a key's value stands, with what is wrong with it."""


@dataclass(frozen=True)
class Rule:
    """A check over the values of some keys, left out where one of them has an error already."""

    reads: tuple[str, ...]
    check: Callable[[SpecValues], Iterator[InputError]]


def _default_batch(values: SpecValues) -> int:
    return DEFAULT_MAX_BATCH


@dataclass(frozen=True)
class SpecKeys:
    """One target's part of the build file.

    Attributes:
        uses: path → what it does with a key, and why; for other keys `Key.use` holds.
        for_vamc: what it does with keys for VACC's closed compiler; None: as `Key.use` says.
        keys: those that it alone reads.
        rules: its own, over any keys.
        max_batch: `runtime.max_batch` where the spec leaves it open.
    """

    uses: Mapping[str, tuple[Use, str]] = field(default_factory=dict)
    for_vamc: tuple[Use, str] | None = None
    keys: tuple[Key, ...] = ()
    rules: tuple[Rule, ...] = ()
    max_batch: Callable[[SpecValues], int] = _default_batch

    def use_of(self, key: Key) -> tuple[Use, str]:
        """What the target does with a key, and why."""
        if key.path in self.uses:
            return self.uses[key.path]
        return self.for_vamc if key.for_vamc and self.for_vamc is not None else key.use
