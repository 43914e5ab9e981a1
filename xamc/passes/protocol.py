"""What a pass is: one rewrite with a name, a claim about exactness, and a report of what it did.

A graph pass works on a `Program` (onnx_ir), a Relax pass on a `RelaxProgram` (IRModule). Both change their
argument in place and return a `PassReport`. A pass that changes the signature also implements `adapt`, which turns
the feeds and fetches of the graph before it into the feeds and the expected fetches of the graph after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xamc.compiler.program import Program

Tensors = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class NonMatch:
    """A place that a pass looked at and left alone, and why."""

    place: str
    reason: str


@dataclass
class PassReport:
    """What one run of a pass did. `matched` counts rewrites by rule name; `passes.expect` checks their sum."""

    matched: dict[str, int] = field(default_factory=dict)
    skipped: list[NonMatch] = field(default_factory=list)

    def count(self, rule: str, amount: int = 1) -> None:
        """Notes `amount` rewrites of `rule`."""
        self.matched[rule] = self.matched.get(rule, 0) + amount

    @property
    def total(self) -> int:
        """All rewrites of the run."""
        return sum(self.matched.values())


class GraphPass(Protocol):
    """A rewrite of a `Program`.

    Attributes:
        name: the word used in the spec (`passes.disable`, `passes.expect`), in reports and dumps.
        tolerance: name of an entry of `xamc.compiler.verify.tolerances` that bounds how far outputs may move.
    """

    @property
    def name(self) -> str: ...

    @property
    def tolerance(self) -> str: ...

    def run(self, program: Program) -> PassReport:
        """Rewrites `program` in place."""
        ...

    def adapt(self, feeds: Tensors, fetches: Tensors) -> tuple[dict[str, NDArray[np.generic]], dict[str, NDArray[np.generic]]]:
        """Feeds for the graph after the pass, and what its outputs must be, from those of the graph before it."""
        ...


class SameSignature:
    """Mixin for passes that keep the graph's inputs and outputs as they are."""

    def adapt(self, feeds: Tensors, fetches: Tensors) -> tuple[dict[str, NDArray[np.generic]], dict[str, NDArray[np.generic]]]:
        """The same feeds and fetches."""
        return dict(feeds), dict(fetches)
