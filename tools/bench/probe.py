"""How fast this machine reads memory right now: the limit of decoding, which reads every weight for every token.

On virtual machines it swings within tens of seconds, so it is probed around every measurement.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

GIB = 2**30


class BandwidthProbe:
    """A buffer much larger than any cache, read by as many threads as the engine has.

    The maximum of int32 is the reduction of NumPy that comes nearest to the limit: SIMD, no NaN test, one stream.
    """

    def __init__(self, nbytes: int = GIB, passes: int = 3) -> None:
        """Takes and touches `nbytes` of memory; the best of `passes` counts."""
        self._data = np.ones(nbytes // 4, np.int32)
        self._passes = passes

    def gigabytes_per_s(self, threads: int) -> float:
        """Read bandwidth with that many threads, in 10⁹ bytes per second."""
        parts = np.array_split(self._data, threads)
        best = float("inf")
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda part: part[:1].max(), parts))  # threads start here, not in the time taken
            for _ in range(self._passes):
                started = time.perf_counter()
                list(pool.map(np.max, parts))
                best = min(best, time.perf_counter() - started)
        return self._data.nbytes / best / 1e9
