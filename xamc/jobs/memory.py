"""Peak memory of a compile: the largest sum of PSS over the process tree, sampled.

PSS counts a page shared by n processes as 1/n of a page in each, so the sum over the tree is what the tree really
takes. `ru_maxrss` misleads in both directions: it counts mapped file pages as if they were ours, and for children it
is the maximum over them, not their sum.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType

INTERVAL_SECONDS = 0.1
_PAGE = os.sysconf("SC_PAGE_SIZE")


def process_tree(root: int) -> list[int]:
    """Process ids of `root` and all its living descendants."""
    found, index = [root], 0
    while index < len(found):
        for task in _listdir(f"/proc/{found[index]}/task"):
            text = _read(f"/proc/{found[index]}/task/{task}/children")
            found.extend(int(child) for child in text.split())
        index += 1
    return found


def pss_bytes(pid: int) -> int:
    """Proportional set size of a process in bytes; 0 when it is gone."""
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def tree_pss_bytes(root: int) -> int:
    """Sum of the PSS of `root` and all its descendants, in bytes."""
    return sum(pss_bytes(pid) for pid in process_tree(root))


def tree_rss_bytes(root: int) -> int:
    """Sum of the resident set sizes, in bytes: never less than the PSS, and read without walking any page."""
    return sum(_rss_bytes(pid) for pid in process_tree(root))


def _rss_bytes(pid: int) -> int:
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * _PAGE if len(fields) > 1 else 0


class MemorySampler:
    """Samples the tree's PSS in a thread every 100 ms; use it as a context manager.

    Reading a PSS walks the page tables (about 25 ms for 600 MB). It is skipped while the sum of the resident sets,
    which bounds it from above, is no larger than the stage's peak so far, and takes at most a tenth of the time.

    Attributes:
        peak: largest sample so far, in bytes.
    """

    def __init__(self, root: int | None = None, interval: float = INTERVAL_SECONDS) -> None:
        self._root = root or os.getpid()
        self._interval = interval
        self._stage_peak = 0
        self._stage = 0
        self.peak = 0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="memory-sampler", daemon=True)

    def __enter__(self) -> MemorySampler:
        self.sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def start_stage(self) -> None:
        """Begin a new stage's peak."""
        with self._lock:
            self._stage_peak = 0
            self._stage += 1
        self.sample()

    def stage_peak(self) -> int:
        """Peak since `start_stage`, in bytes; a last sample is taken now."""
        self.sample()
        with self._lock:
            return self._stage_peak

    def sample(self) -> int:
        """Take one sample now; returns it in bytes (the stage's peak when it can't be more than that)."""
        with self._lock:
            peak, stage = self._stage_peak, self._stage
        if peak and tree_rss_bytes(self._root) <= peak:
            return peak
        now = tree_pss_bytes(self._root)
        with self._lock:
            if stage == self._stage:  # a sample that began in an earlier stage says nothing of this one
                self._stage_peak = max(self._stage_peak, now)
            self.peak = max(self.peak, now)
        return now

    def _run(self) -> None:
        pause = self._interval
        while not self._stop.wait(pause):
            start = time.monotonic()
            self.sample()
            pause = max(self._interval, 9 * (time.monotonic() - start))


def available_bytes() -> int:
    """Memory this process may still take: the machine's MemAvailable, or less where a cgroup limits it."""
    available = 0
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    left = _cgroup_left()
    return available if left is None else min(available, left)


def _cgroup_left() -> int | None:
    """Bytes left under the tightest cgroup v2 limit above this process, or None without one."""
    root = Path("/sys/fs/cgroup")
    tightest = None
    for line in _read("/proc/self/cgroup").splitlines():
        if not line.startswith("0::"):
            continue
        place = root / line[3:].lstrip("/")
        while place.is_relative_to(root):
            limit, current = _read(f"{place}/memory.max").strip(), _read(f"{place}/memory.current").strip()
            if limit.isdigit() and current.isdigit():
                # Page cache counts as current but is given back on demand.
                cached = _stat_value(_read(f"{place}/memory.stat"), "inactive_file")
                left = int(limit) - int(current) + cached
                tightest = left if tightest is None else min(tightest, left)
            place = place.parent
    return tightest


def _stat_value(text: str, key: str) -> int:
    for line in text.splitlines():
        if line.startswith(f"{key} "):
            return int(line.split()[1])
    return 0


def _read(path: str) -> str:
    """A file of /proc or /sys; empty when the process or the file is gone (or not ours to read)."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
