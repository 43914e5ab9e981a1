"""Which tiles win: a search in two rounds over measured pairs, and how sure of a gain it has to be.

A measurement of a candidate is a list of ratios, the default's time over the candidate's in a run right beside it, so
that a machine whose speed changes within seconds changes both. Nothing here measures; see `measure.py`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from xamc.targets.cpu.tune.candidates import combined
from xamc.targets.kernels.tiles import KernelTiles

FIRST_PAIRS = 7
"""Pairs of runs per candidate in the first round, which only chooses whom to measure again."""
FINAL_PAIRS = 21
"""Pairs of runs per finalist."""
MARGIN = 0.02
"""What a winner must gain beyond the noise: less is not worth another library than everybody else's."""
_SIGMAS = 3.0
_FINALISTS = 2

Ratios = Sequence[float]


@dataclass(frozen=True)
class Winner:
    """The tiles that won, and how many times as fast as the default they are (median)."""

    tiles: KernelTiles
    speedup: float


def gain(ratios: Ratios, sigmas: float = _SIGMAS) -> float:
    """The gain that the ratios vouch for: their median less `sigmas` standard errors, minus 1.

    The standard error of a median of normal values is 1.2533 s / sqrt(n), with s estimated as 1.4826 times the median
    absolute deviation, which a few runs that were interrupted do not move.
    """
    middle = statistics.median(ratios)
    deviation = statistics.median(abs(ratio - middle) for ratio in ratios)
    return middle - sigmas * 1.2533 * 1.4826 * deviation / math.sqrt(len(ratios)) - 1.0


def finalists(candidates: Sequence[KernelTiles], ratios: Sequence[Ratios]) -> list[KernelTiles]:
    """Whom to measure again: the candidates whose median is above 1, best first, and all that they change together.

    Args:
        candidates: of the first round.
        ratios: of each candidate.
    """
    medians = [statistics.median(r) for r in ratios]
    order = sorted(range(len(candidates)), key=lambda index: -medians[index])
    promising = [candidates[index] for index in order if medians[index] > 1.0 + MARGIN / 2]
    both = combined(promising)
    return promising[:_FINALISTS] + ([both] if both is not None else [])


def choose(candidates: Sequence[KernelTiles], ratios: Sequence[Ratios]) -> Winner | None:
    """The finalist that vouches for the largest gain, if that is more than the margin; None leaves the default."""
    sure = [(gain(r), -index) for index, r in enumerate(ratios)]
    if not sure or max(sure)[0] <= MARGIN:
        return None
    index = -max(sure)[1]
    return Winner(candidates[index], statistics.median(ratios[index]))
