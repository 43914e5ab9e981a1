"""What Linux says of this machine's processors."""

from __future__ import annotations

import functools
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


@functools.cache
def cpu_features(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """The features that every CPU of this machine has, as Linux names them; empty where Linux does not say.

    Code may run on any of the CPUs.
    """
    if not cpuinfo.exists():
        return frozenset()
    flags = [
        frozenset(line.partition(":")[2].split())
        for line in cpuinfo.read_text(encoding="utf-8").splitlines()
        if line.startswith(("flags", "Features"))
    ]
    return frozenset.intersection(*flags) if flags else frozenset()


@functools.cache
def cpu_model() -> str:
    """This machine's processor: its name, vendor, family, model and stepping, as names repeat."""
    names = (
        "model name",
        "vendor_id",
        "cpu family",
        "model",
        "stepping",
        "CPU implementer",
        "CPU part",
        "CPU revision",
    )
    first = CPUINFO.read_text(encoding="utf-8").partition("\n\n")[0] if CPUINFO.exists() else ""
    pairs = (line.partition(":") for line in first.splitlines())
    info = {key.strip(): value.strip() for key, _, value in pairs}
    return " ".join(info[name] for name in names if name in info)
