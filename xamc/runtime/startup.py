"""How long this process has been running."""

from __future__ import annotations

import os
import time
from pathlib import Path

_START_TIME = 19
"""Place of `starttime` in /proc/PID/stat after the name in parentheses, which may hold blanks."""


def seconds_since_start() -> float:
    """Seconds since the kernel started this process, the interpreter's own start included; proc(5), `starttime`."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(fields[_START_TIME]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
