"""What the samples say: medians, fractions of the limits, ratios to the best peer in the same memory state."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tools.bench.engines import EngineChoice
from tools.bench.probe import memory_boundary, memory_state
from tools.bench.samples import Sample

OURS = "xamc"
UNSETTLED = "unsettled"
"""Not a state: the memory flipped during every measurement, and these are compared as they are."""


@dataclass(frozen=True)
class Cell:
    """One engine's values of one quantity.

    Attributes:
        samples: the measurements; without those left out.
        skipped: it was left out because it would have taken too long.
        limit: the engine's fraction of the machine's limit, median; 0 if unknown.
        ratios: memory state → median over that of the best peer of the same width in that state. States in which either
            was not measured are absent; ``""`` is the only state of a run that saw one.
    """

    samples: tuple[Sample, ...]
    skipped: bool
    limit: float
    ratios: dict[str, float]

    @property
    def values(self) -> list[float]:
        """Of every round."""
        return [s.value for s in self.samples]

    @property
    def median(self) -> float:
        """Of the values; 0 without any."""
        return statistics.median(self.values) if self.samples else 0.0

    @property
    def loses(self) -> bool:
        """Whether a peer is ahead in any memory state."""
        return any(ratio < 1.0 for ratio in self.ratios.values())


class Results:
    """Samples of a run, with the questions that tables and plots ask."""

    def __init__(self, samples: Sequence[Sample], engines: Sequence[EngineChoice]) -> None:
        """Memory states are told apart per number of threads, over the whole run."""
        self.samples, self.engines = samples, engines
        self.threads = sorted({s.threads for s in samples if s.stage == "speed"})
        self.boundaries = {
            count: memory_boundary(
                [r for s in samples if s.threads == count for r in (s.read_before, s.read_after) if r]
            )
            for count in self.threads
        }
        self.peaks = {(s.quantity, s.threads): s.value for s in samples if s.stage == "peak"}

    def models(self) -> list[str]:
        """Keys of the models that raced, in order."""
        return list(dict.fromkeys(engine.model for engine in self.engines))

    def of_model(self, model: str, width: int = 0) -> list[EngineChoice]:
        """Engines of a model, of one width if it is given."""
        return [e for e in self.engines if e.model == model and width in (0, e.width)]

    def widths(self, model: str) -> list[int]:
        """Nominal widths of a model's engines, ascending."""
        return sorted({e.width for e in self.of_model(model)})

    def state(self, sample: Sample) -> str:
        """The memory state that a sample was measured in."""
        return memory_state(sample.read_before, sample.read_after, self.boundaries.get(sample.threads))

    def raw(self, engine: EngineChoice, quantity: str, threads: int) -> list[Sample]:
        """Samples of one engine, those left out (NaN) too."""
        key = (engine.model, engine.name, quantity, threads)
        return [s for s in self.samples if (s.model, s.engine, s.quantity, s.threads) == key]

    def cell(self, engine: EngineChoice, quantity: str, threads: int, lower_wins: bool = False) -> Cell:
        """Everything about one engine and quantity.

        Args:
            engine: one of `engines`.
            quantity: of `Sample`.
            threads: number of threads.
            lower_wins: for times and memory; ratios are turned over, so that one above 1 wins always.
        """
        raw = self.raw(engine, quantity, threads)
        samples = tuple(s for s in raw if not math.isnan(s.value))
        shares = [share for s in samples if (share := self._share(engine, s))]
        ratios: dict[str, float] = {}
        if engine.kind == OURS:
            for state in ("slow", "fast", ""):
                ratios |= self._ratio(engine, quantity, threads, lower_wins, state)
            if not ratios:
                ratios = self._ratio(engine, quantity, threads, lower_wins, UNSETTLED)
        return Cell(samples, len(samples) < len(raw), statistics.median(shares) if shares else 0.0, ratios)

    def best(self, model: str, width: int, quantity: str, threads: int, lower_wins: bool = False) -> dict[str, float]:
        """Ratios of the best of our rows of that width, state by state."""
        best: dict[str, float] = {}
        for engine in self.of_model(model, width):
            for state, ratio in self.cell(engine, quantity, threads, lower_wins).ratios.items():
                best[state] = max(ratio, best.get(state, 0.0))
        return best

    def limit(self, engine: EngineChoice, quantity: str, threads: int, bandwidth: float = 0.0) -> float:
        """The most tokens/s that the machine allows; 0 if unknown.

        Decoding: bandwidth over the bytes that a token reads. Prefill: the highest arithmetic peak that the weights'
        width admits (16 bits: bf16 or fp32; below: int8 too) over two operations per weight of the layers; attention
        and the last position's output head are left out.

        Args:
            engine: whose weights.
            quantity: decode or prefill.
            threads: number of threads.
            bandwidth: bytes/s.
        """
        if quantity == "decode":
            return bandwidth / engine.token_bytes if engine.token_bytes else 0.0
        kinds = ("bf16", "fp32") if engine.width >= 16 else ("int8", "bf16", "fp32")
        peak = max((self.peaks.get((kind, threads), 0.0) for kind in kinds), default=0.0)
        return peak / (2 * engine.layers_count) if engine.layers_count else 0.0

    def bandwidths(self, threads: int) -> list[float]:
        """Every probe of a number of threads, in GB/s."""
        return [r for s in self.samples if s.threads == threads for r in (s.read_before, s.read_after) if r]

    def _share(self, engine: EngineChoice, sample: Sample) -> float:
        if sample.quantity != "decode" and not sample.quantity.startswith("prefill"):
            return 0.0
        limit = self.limit(engine, sample.quantity, sample.threads, sample.bandwidth)
        return sample.value / limit if limit else 0.0

    def _ratio(
        self, engine: EngineChoice, quantity: str, threads: int, lower_wins: bool, state: str
    ) -> dict[str, float]:
        """The ratio to the best peer of that width in that state under its name; empty if either was not measured."""
        mine = self._in_state(engine, quantity, threads, state)
        theirs = [
            statistics.median(values)
            for peer in self.of_model(engine.model, engine.width)
            if peer.kind != OURS and (values := self._in_state(peer, quantity, threads, state))
        ]
        if not mine or not theirs:
            return {}
        middle = statistics.median(mine)
        return {state: min(theirs) / middle if lower_wins else middle / max(theirs)}

    def _in_state(self, engine: EngineChoice, quantity: str, threads: int, state: str) -> list[float]:
        found = self.raw(engine, quantity, threads)
        probed = any(s.read_before for s in found)
        # what is not probed (starting, memory) does not depend on the state
        wanted = [s for s in found if state == UNSETTLED or (self.state(s) == state if probed else state == "")]
        return [s.value for s in wanted if not math.isnan(s.value)]
