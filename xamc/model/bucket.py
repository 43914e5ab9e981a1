"""The static graphs of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Bucket:
    """One static graph: a phase and its length in tokens.

    A prefill graph takes `length` tokens at once; a decode graph takes one, on top of a past of ``length - 1`` slots.
    """

    kind: Literal["prefill", "decode"]
    length: int

    @property
    def name(self) -> str:
        """As in folder names: ``prefill_1024``."""
        return f"{self.kind}_{self.length}"
