"""What `make scale` sees of a process from outside, and how it ends one that goes above a limit."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tools.memory_limit import CgroupLimit, WatchdogLimit, choose_limit
from tools.watched_run import disk_bytes, watched_run

MIB = 2**20
_TAKE = "import sys, time; data = bytearray({mib} * 2**20); time.sleep({seconds}); print(len(data))"


def take(mib: int, seconds: float) -> list[str]:
    return [sys.executable, "-c", _TAKE.format(mib=mib, seconds=seconds)]


def test_a_hard_link_counts_once(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/file").write_bytes(b"x" * MIB)
    once = disk_bytes([tmp_path])
    os.link(tmp_path / "cache/file", tmp_path / "link")
    assert MIB <= once == disk_bytes([tmp_path])
    (tmp_path / "copy").write_bytes(b"x" * MIB)
    assert disk_bytes([tmp_path]) >= 2 * MIB


def test_memory_and_disk_of_a_command(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * MIB)
    watched = watched_run(take(80, 0.6), folders=[tmp_path], environment={})
    assert watched.status == 0
    assert watched.output.strip() == str(80 * MIB)
    assert 80 * MIB < watched.peak_pss < 160 * MIB
    assert watched.peak_disk >= MIB
    assert not watched.ended_by_watchdog


def test_the_kernel_refuses_one_process_above_the_limit(tmp_path: Path) -> None:
    watched = watched_run(take(400, 0.0), folders=[tmp_path], environment={}, limit=WatchdogLimit(200 * MIB))
    assert watched.status == 1  # MemoryError


def test_the_watchdog_ends_what_is_above_the_limit_together(tmp_path: Path) -> None:
    two = f"import subprocess; c = {take(150, 20.0)!r}; [p.wait() for p in [subprocess.Popen(c) for _ in range(2)]]"
    watched = watched_run(
        [sys.executable, "-c", two], folders=[tmp_path], environment={}, limit=WatchdogLimit(220 * MIB)
    )
    assert watched.ended_by_watchdog and watched.status != 0
    assert watched.seconds < 15


def test_a_named_cgroup_is_limited_and_joined(tmp_path: Path) -> None:
    """Against files that look like a memory cgroup of version 2: a real one needs the machine's owner."""
    group = tmp_path / "xamc-scale"
    group.mkdir()
    for name in ("memory.max", "memory.swap.max", "cgroup.procs"):
        (group / name).write_text("")
    limit = choose_limit(3 * 2**30, tmp_path)
    assert isinstance(limit, CgroupLimit)
    limit.open()()
    assert (group / "memory.max").read_text() == str(3 * 2**30)
    assert (group / "memory.swap.max").read_text() == "0"
    assert (group / "cgroup.procs").read_text() == str(os.getpid())
