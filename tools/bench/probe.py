"""What this machine can do: memory read bandwidth right now, and arithmetic peaks.

Decoding reads every weight for every token, so read bandwidth is its limit; on virtual machines that swings within tens
of seconds, between two states or more, so it is probed around every measurement. Prefill is limited by multiply-adds.
The loops are in peaks.c. Without a C compiler NumPy reads the memory, and there are no peaks.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xamc.jobs.processor import cpu_features

GIB = 2**30
SOURCE = Path(__file__).with_name("peaks.c")
_BLOCK = 2**14  # bytes that a thread's part of the buffer is a multiple of
_PEAK_SECONDS = 0.01  # a slice so short that other processes leave some of many alone


@dataclass(frozen=True)
class Peak:
    """An arithmetic limit: `rate` operations per second (a multiply-add is two) with `threads`, by `instruction`."""

    kind: str
    threads: int
    rate: float
    instruction: str


def compile_loops(folder: Path) -> Any:
    """The loops of peaks.c for this CPU as a ctypes library, or None without a C compiler.

    Args:
        folder: where the library is kept.

    Raises:
        OSError: the compiled library cannot be loaded.
    """
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    features = cpu_features()
    if compiler is None or "avx2" not in features:
        return None
    wide = "avx512f" in features
    flags = [f"-DLEVEL={512 if wide else 256}"]
    flags += ["-DVNNI"] if ("avx512_vnni" in features if wide else "avx_vnni" in features) else []
    flags += ["-DBF16"] if wide and "avx512_bf16" in features else []
    # registers 16 to 31 are not used, so that the clobbers need no -mavx512f
    digest = hashlib.sha256(SOURCE.read_bytes() + " ".join(flags).encode()).hexdigest()[:12]
    library = folder / f"peaks-{digest}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [compiler, "-O2", "-shared", "-fPIC", *flags, str(SOURCE), "-o", str(library)]
        if subprocess.run(command, check=False).returncode:
            return None
    loops = ctypes.CDLL(str(library))
    loops.read_all.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return loops


class BandwidthProbe:
    """A buffer much larger than any cache, read by as many threads as the engine has; the best pass counts."""

    def __init__(self, nbytes: int = GIB, passes: int = 3, loops: Any = None) -> None:
        """Takes and touches `nbytes` of memory.

        Args:
            nbytes: size of the buffer.
            passes: of which the best counts.
            loops: what `compile_loops` gave. Without it NumPy reads: the maximum of int32 is the reduction
                of NumPy that comes nearest to the limit.
        """
        self._data = np.ones(nbytes // 4, np.int32)
        self._passes, self._loops = passes, loops

    def gigabytes_per_s(self, threads: int) -> float:
        """Read bandwidth with that many threads, in 10⁹ bytes per second."""
        return self._data.nbytes / min(timed(self._readers(threads), self._passes)) / 1e9

    def _readers(self, threads: int) -> list[Callable[[], object]]:
        if self._loops is None:
            return [lambda part=part: part.max() for part in np.array_split(self._data, threads)]  # type: ignore[misc]
        share = self._data.nbytes // threads // _BLOCK * _BLOCK
        start = -(-self._data.ctypes.data // 64) * 64
        share -= _BLOCK if start != self._data.ctypes.data else 0
        read = self._loops.read_all
        return [lambda at=start + i * share: read(at, share) for i in range(threads)]  # type: ignore[misc]


def timed(works: Sequence[Callable[[], object]], passes: int) -> list[float]:
    """Seconds that all works take together, one thread each, for every pass; threads start before the first."""
    seconds = []
    with ThreadPoolExecutor(len(works)) as pool:
        list(pool.map(lambda work: time.sleep(0.001), works))
        for _ in range(passes):
            started = time.perf_counter()
            list(pool.map(lambda work: work(), works))
            seconds.append(time.perf_counter() - started)
    return seconds


def arithmetic_peaks(loops: Any, thread_counts: Sequence[int]) -> list[Peak]:
    """Peaks of int8, bf16 (where the CPU has it) and fp32 for each number of threads; empty without the loops.

    Args:
        loops: what `compile_loops` gave.
        thread_counts: each is measured for itself.
    """
    if loops is None:
        return []
    kinds = [("int8", _text(loops.int8_name)), ("fp32", "vfmadd231ps")]
    if hasattr(loops, "bf16_loop"):
        kinds.insert(1, ("bf16", "vdpbf16ps"))
    peaks = []
    for kind, instruction in kinds:
        loop, operations = getattr(loops, f"{kind}_loop"), getattr(loops, f"{kind}_ops")
        loop.argtypes, operations.restype = [ctypes.c_uint64], ctypes.c_double
        rounds = 2**16
        while (once := min(timed([lambda loop=loop, n=rounds: loop(n)], 3))) < _PEAK_SECONDS / 2:  # type: ignore[misc]
            rounds = int(rounds * min(8, 1.2 * _PEAK_SECONDS / once))
        for threads in thread_counts:
            best = min(timed([lambda loop=loop, n=rounds: loop(n)] * threads, 60))  # type: ignore[misc]
            peaks.append(Peak(kind, threads, operations() * rounds * threads / best, instruction))
    return peaks


def _text(function: Any) -> str:
    function.restype = ctypes.c_char_p
    return str(function().decode())


def memory_boundary(readings: Sequence[float]) -> float | None:
    """The bandwidth that parts a slow from a fast memory state, or None if a run saw one state only.

    Two states are there when the readings fall into two clumps whose medians differ by 1.35 or more, each with at least
    15 % of the readings and with a gap of 1.2 or more between them, wider than any other; a drift has no such gap.
    """
    ordered = sorted(reading for reading in readings if reading > 0)
    least = max(2, round(0.15 * len(ordered)))
    splits = range(least, len(ordered) - least + 1)
    if not splits:
        return None
    at = max(splits, key=lambda i: ordered[i] / ordered[i - 1])
    low, high = statistics.median(ordered[:at]), statistics.median(ordered[at:])
    widest = max(b / a for a, b in zip(ordered[least - 1 : -least], ordered[least : len(ordered) - least + 1]))
    if high / low < 1.35 or ordered[at] / ordered[at - 1] < widest or ordered[at] / ordered[at - 1] < 1.2:
        return None
    return math.sqrt(ordered[at - 1] * ordered[at])


def memory_state(before: float, after: float, boundary: float | None) -> str:
    """``slow`` or ``fast`` by the probes around a measurement, ``mixed`` if they disagree, empty without a boundary."""
    if boundary is None:
        return ""
    sides = {reading >= boundary for reading in (before, after) if reading > 0}
    return "mixed" if len(sides) != 1 else "fast" if sides == {True} else "slow"


if __name__ == "__main__":
    _loops = compile_loops(Path("build/bench"))
    for _peak in arithmetic_peaks(_loops, sorted({1, len(os.sched_getaffinity(0))})):
        print(f"{_peak.kind} {_peak.threads} threads: {_peak.rate / 1e9:,.0f} Gop/s ({_peak.instruction})")
    for _count in sorted({1, len(os.sched_getaffinity(0))}):
        print(f"read {_count} threads: {BandwidthProbe(loops=_loops).gigabytes_per_s(_count):.1f} GB/s")
        print(f"read by NumPy {_count} threads: {BandwidthProbe().gigabytes_per_s(_count):.1f} GB/s")
