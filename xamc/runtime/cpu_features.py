"""Whether this CPU has the instructions an artifact was compiled for, and which of its libraries is the best one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xamc.artifact.manifest import Code, Cpu, Manifest
from xamc.errors import UnsupportedError
from xamc.jobs import processor


def missing_features(cpu: Cpu, cpuinfo: Path = processor.CPUINFO) -> list[str]:
    """What an artifact's code needs and this machine lacks, sorted."""
    return sorted(set(cpu.features) - processor.cpu_features(cpuinfo))


def why_not_run(cpus: Sequence[Cpu], cpuinfo: Path = processor.CPUINFO) -> str:
    """What this machine lacks for the code that needs least; empty when it can run one of them.

    For example ``avx2, fma, which x86-64-v3 code needs``.
    """
    missing = [missing_features(cpu, cpuinfo) for cpu in cpus]
    if not all(missing):
        return ""
    least = min(missing, key=len)
    return f"{', '.join(least)}, which {cpus[missing.index(least)].mcpu} code needs"


def best_code(manifest: Manifest, cpuinfo: Path = processor.CPUINFO) -> Code:
    """The library of an artifact that makes most of this CPU.

    Raises:
        InputError: E1502, an artifact of static graphs.
        UnsupportedError: E1607, this CPU can run none; names what is missing for the least demanding one.
    """
    manifest.library()
    usable = [code for code in manifest.codes if not missing_features(code.cpu, cpuinfo)]
    if usable:
        return usable[-1]
    for code in sorted(manifest.codes, key=lambda code: len(missing_features(code.cpu, cpuinfo))):
        check_cpu(code.cpu, cpuinfo)
    raise AssertionError("check_cpu raises for a CPU with missing features")


def check_cpu(cpu: Cpu, cpuinfo: Path = processor.CPUINFO) -> None:
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
            "or for several: --set 'backend.compile.cpu=[x86-64-v2, x86-64-v3, x86-64-v4]'",
        )
