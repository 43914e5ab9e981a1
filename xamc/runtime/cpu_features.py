"""Whether this CPU has the instructions an artifact was compiled for."""

from __future__ import annotations

from pathlib import Path

from xamc.compiler.artifact.manifest import Cpu
from xamc.compiler.errors import UnsupportedError

_CPUINFO = Path("/proc/cpuinfo")


def cpu_features(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """The features that every CPU of this machine has, as Linux names them; empty where Linux does not say."""
    if not cpuinfo.exists():
        return frozenset()
    flags = [
        frozenset(line.partition(":")[2].split())
        for line in cpuinfo.read_text().splitlines()
        if line.startswith(("flags", "Features"))
    ]
    return frozenset.intersection(*flags) if flags else frozenset()


def missing_features(cpu: Cpu, cpuinfo: Path = _CPUINFO) -> list[str]:
    """What an artifact's code needs and this machine lacks, sorted."""
    return sorted(set(cpu.features) - cpu_features(cpuinfo))


def check_cpu(cpu: Cpu, cpuinfo: Path = _CPUINFO) -> None:
    """Refuses an artifact whose code would die here with an illegal instruction.

    Raises:
        UnsupportedError: E1607, naming the missing features.
    """
    missing = missing_features(cpu, cpuinfo)
    if missing:
        raise UnsupportedError(
            "E1607",
            f"this CPU lacks {', '.join(missing)}, which the artifact's code ({cpu.mcpu}) needs",
            "compile it for this CPU: xamc compile build.yaml --set backend.compile.mcpu=native on this machine, "
            "or --set backend.compile.mcpu=x86-64-v2 for any CPU",
        )
