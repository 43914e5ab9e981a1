"""What a target builds on without having run it, as a record that docs and tests read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Assumption:
    """One thing that a target takes for granted.

    Attributes:
        id: short and stable; what other files refer to it by.
        statement: what is assumed.
        ground: on what ground; the target's own list says which grounds there are.
        used_in: files of this repository that build on it.
        if_wrong: what would change.
    """

    id: str
    statement: str
    ground: str
    used_in: tuple[str, ...]
    if_wrong: str
