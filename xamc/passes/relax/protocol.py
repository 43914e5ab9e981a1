"""The protocol of a Relax pass; reports are those of the graph passes."""

from __future__ import annotations

from typing import Protocol

from xamc.ir.relax_program import RelaxProgram
from xamc.passes.protocol import PassReport


class RelaxPass(Protocol):
    """A rewrite of a `RelaxProgram`; it may replace weights, never the data inputs, caches or outputs."""

    @property
    def name(self) -> str: ...

    @property
    def tolerance(self) -> str: ...

    def run(self, program: RelaxProgram) -> PassReport:
        """Rewrites `program` in place."""
        ...
