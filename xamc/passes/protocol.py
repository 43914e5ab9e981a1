"""What a pass is: one rewrite with a name, a claim about exactness, and a report of what it did.

A graph pass works on a `Program` (onnx_ir), a Relax pass on a `RelaxProgram` (IRModule). Both change their
argument in place and return a `PassReport`. A pass that changes the signature also implements `adapt`, which turns
the feeds and fetches of the graph before it into the feeds and the expected fetches of the graph after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from xamc.ir.program import Program

if TYPE_CHECKING:
    from xamc.passes.graph.shard.plan import ShardPlan

Arrays = dict[str, NDArray[np.generic]]
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
        tolerance: name of an entry of `xamc.ir.tolerances` that bounds how far outputs may move.
    """

    @property
    def name(self) -> str: ...

    @property
    def tolerance(self) -> str: ...

    def run(self, program: Program) -> PassReport:
        """Rewrites `program` in place."""
        ...

    def adapt(self, feeds: Tensors, fetches: Tensors) -> tuple[Arrays, Arrays]:
        """Feeds for the graph after the pass, and what its outputs must be, from those of the graph before it."""
        ...


class SameSignature:
    """Mixin for passes that keep the graph's inputs and outputs as they are."""

    def adapt(self, feeds: Tensors, fetches: Tensors) -> tuple[Arrays, Arrays]:
        """The same feeds and fetches."""
        return dict(feeds), dict(fetches)


@runtime_checkable
class MergesRows(Protocol):
    """A pass after which one call can serve rows of different lengths; its proof merges single-row calls into one."""

    def merge_rows(self, rows: Sequence[tuple[Tensors, Tensors]]) -> tuple[Arrays, Arrays]:
        """A ragged call's feeds and expected fetches from calls of one row each; NaN where only padding decides."""
        ...


@runtime_checkable
class ChangesWeights(Protocol):
    """A pass that stores weights with less precision. It is proven against the graph before it, run on what the stored
    weights decode to; how far they lie from the originals is bounded separately."""

    def decoded_weights(self, before: Tensors, after: Tensors) -> Arrays:
        """Weights for the graph before the pass, decoded from those after it.

        Raises:
            InternalError: E1308, a decoded weight is further from its original than the storage form explains.
        """
        ...


@runtime_checkable
class RoundsFeeds(Protocol):
    """A pass whose graph is fed with less precision (a quantized KV cache). It is proven against the graph before it,
    run on what the rounded feeds decode to, so that the proof shows the rewrite and not the price of the rounding."""

    def decoded_feeds(self, feeds: Tensors) -> Arrays:
        """Feeds for the graph before the pass that carry no more than those of the graph after it can."""
        ...


@runtime_checkable
class AcceptsCalls(Protocol):
    """A pass after which the graph can serve only some calls; its proof goes on with those."""

    def accepts(self, feeds: Tensors) -> bool:
        """Whether the graph after the pass can serve a call with these feeds of the graph before it."""
        ...


@runtime_checkable
class ShowsValues(Protocol):
    """A pass that makes values from inside the graph its outputs; the proof looks at them before the pass too."""

    def shown_values(self, before: ir.Model) -> Mapping[str, str]:
        """Output after the pass -> name of the same value in the graph before it."""
        ...


class SplitsRanks(Protocol):
    """The last rewrite of a tensor-parallel target: one program becomes one per rank.

    Proven on all ranks together: `xamc.verify.ranks` merges them into one graph whose collectives are real.
    """

    @property
    def name(self) -> str: ...

    @property
    def tolerance(self) -> str: ...

    def plan(self, program: Program) -> ShardPlan:
        """What of `program` each rank owns."""
        ...

    def split(self, program: Program) -> list[Program]:
        """The ranks' programs, in order; `program` itself is not changed."""
        ...
