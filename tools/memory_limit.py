"""Ways to run a command under a memory limit, from the strictest that works here.

- `CgroupLimit`: the kernel limits the whole process tree, page cache included. It needs a memory cgroup that we may
  make a child in, which only the machine's owner knows: it is named on the command line, never searched for.
- `ScopeLimit`: the same through ``systemd-run --scope``, where systemd manages the session.
- `WatchdogLimit`: the kernel limits the private writable memory of every single process (RLIMIT_DATA), and a sampler
  ends the tree when its summed PSS goes above the limit. Weaker: a peak between two samples goes unseen.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_CHILD = "xamc-scale"
_PROBE_SECONDS = 10


@dataclass(frozen=True)
class CgroupLimit:
    """A child of the memory cgroup `parent` (version 1 or 2), made for one command and removed after it."""

    parent: Path
    nbytes: int
    name: str = "the kernel (a memory cgroup of its own, no swap)"
    watched: bool = False

    def command(self, command: list[str]) -> list[str]:
        """The command itself: it joins the group before it starts."""
        return command

    def open(self) -> Callable[[], None]:
        """Makes the group; returns what the child calls before it becomes the command.

        Raises:
            OSError: the group can't be made or limited.
        """
        group = self.parent / _CHILD
        group.mkdir(exist_ok=True)
        if (group / "memory.max").exists():
            (group / "memory.max").write_text(str(self.nbytes))
            if (group / "memory.swap.max").exists():
                (group / "memory.swap.max").write_text("0")
        else:
            (group / "memory.limit_in_bytes").write_text(str(self.nbytes))
            if (group / "memory.memsw.limit_in_bytes").exists():
                (group / "memory.memsw.limit_in_bytes").write_text(str(self.nbytes))
        members = group / "cgroup.procs"
        return lambda: _join(members)

    def close(self) -> None:
        """Removes the group; its processes must have ended."""
        (self.parent / _CHILD).rmdir()


def _join(members: Path) -> None:
    with members.open("w") as file:
        file.write(str(os.getpid()))


@dataclass(frozen=True)
class ScopeLimit:
    """A transient systemd scope with MemoryMax and no swap."""

    nbytes: int
    user: bool
    name: str = "the kernel (a systemd scope, no swap)"
    watched: bool = False

    def command(self, command: list[str]) -> list[str]:
        """The command inside ``systemd-run --scope``."""
        who = ["--user"] if self.user else []
        properties = ["-p", f"MemoryMax={self.nbytes}", "-p", "MemorySwapMax=0"]
        return ["systemd-run", *who, "--scope", "--quiet", *properties, *command]

    def open(self) -> Callable[[], None]:
        """Nothing to prepare."""
        return lambda: None

    def close(self) -> None:
        """Nothing to remove: systemd does."""

    def works(self) -> bool:
        """Whether systemd starts such a scope for us."""
        if shutil.which("systemd-run") is None:
            return False
        try:
            run = subprocess.run(self.command(["true"]), capture_output=True, timeout=_PROBE_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return False
        return run.returncode == 0


@dataclass(frozen=True)
class WatchdogLimit:
    """RLIMIT_DATA for every process, and the caller's sampler for their sum (`watched`)."""

    nbytes: int
    watched: bool = True

    @property
    def name(self) -> str:
        """What enforces the limit, swap included."""
        swap = "the machine has no swap" if not swap_bytes() else "the machine has swap, which this can't switch off"
        return f"RLIMIT_DATA per process, and the sampler for their sum; {swap}"

    def command(self, command: list[str]) -> list[str]:
        """The command itself."""
        return command

    def open(self) -> Callable[[], None]:
        """Returns what the child calls before it becomes the command."""
        limit = (self.nbytes, self.nbytes)
        return lambda: resource.setrlimit(resource.RLIMIT_DATA, limit)

    def close(self) -> None:
        """Nothing to remove."""


Limit = CgroupLimit | ScopeLimit | WatchdogLimit


def choose_limit(nbytes: int, cgroup: Path | None) -> Limit:
    """The strictest way that works: the named cgroup, a systemd scope, else the watchdog."""
    if cgroup is not None:
        return CgroupLimit(cgroup, nbytes)
    scope = ScopeLimit(nbytes, user=os.geteuid() != 0)
    return scope if scope.works() else WatchdogLimit(nbytes)


def swap_bytes() -> int:
    """The machine's swap."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("SwapTotal:"):
            return int(line.split()[1]) * 1024
    return 0
