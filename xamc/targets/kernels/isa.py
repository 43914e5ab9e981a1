"""Instruction-set levels of x86-64 that the kernels are generated for.

A level is data: the generators ask how wide a vector is, how many registers there are and whether an instruction
exists, never for a level's name.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xamc.compiler.errors import UnsupportedError

_V2 = ("cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3")
_V3 = (*_V2, "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")


@dataclass(frozen=True)
class Isa:
    """One feature level.

    Attributes:
        name: ``x86-64-v2``, ``x86-64-v3``, ``x86-64-v4``, with ``+vnni`` and ``+bf16`` where they exist.
        mcpu: LLVM's name of the level.
        attributes: LLVM feature strings on top of `mcpu`.
        lanes: float32 elements of a vector register.
        registers: architectural vector registers.
        has_f16c: float16 conversion in one instruction.
        has_fma: fused multiply-add; without it products are rounded before they are added.
        has_vnni: ``vpdpbusd``, a dot product of four unsigned with four signed bytes accumulated in int32.
        has_bf16_dot: ``vdpbf16ps``, a dot product of pairs of bfloat16 accumulated in float32.
        emulate_vnni, emulate_bf16_dot: generate the same algorithm with plain instructions, for tests on machines
            without it.
        cpu_flags: what ``/proc/cpuinfo`` must list for the code to run.
    """

    name: str
    mcpu: str
    attributes: tuple[str, ...]
    lanes: int
    registers: int
    has_f16c: bool
    has_fma: bool
    has_vnni: bool
    has_bf16_dot: bool
    cpu_flags: tuple[str, ...]
    emulate_vnni: bool = False
    emulate_bf16_dot: bool = False

    @staticmethod
    def by_name(name: str) -> Isa:
        """The level called `name`.

        Raises:
            UnsupportedError: E1461, no such level.
        """
        if name not in LEVELS:
            raise UnsupportedError(
                "E1461",
                f"CPU level {name!r} is not known; known are {', '.join(LEVELS)}",
                fix=f"choose one of {', '.join(LEVELS)}",
                keys=("backend.compile.mcpu",),
            )
        return LEVELS[name]

    @staticmethod
    def wanted(mcpu: str) -> Isa:
        """The level that `backend.compile.mcpu` means: `native` is this machine's.

        Raises:
            UnsupportedError: E1461, E1462.
        """
        return Isa.host() if mcpu == "native" else Isa.by_name(mcpu)

    @staticmethod
    def host() -> Isa:
        """The highest level that this machine's processor supports.

        Raises:
            UnsupportedError: E1462, the processor is below x86-64-v2 or not an x86-64.
        """
        return Isa.best(_host_flags())

    @staticmethod
    def best(flags: Iterable[str]) -> Isa:
        """The highest level whose required flags are all in `flags` (names as in ``/proc/cpuinfo``)."""
        available = frozenset(flags)
        for level in reversed(LEVELS.values()):
            if available.issuperset(level.cpu_flags):
                return level
        missing = sorted(set(_V2) - available)
        raise UnsupportedError(
            "E1462",
            f"this processor lacks {', '.join(missing)}, which the CPU target needs (x86-64-v2)",
            fix="compile and run on an x86-64 machine of 2009 or later",
        )

    def target(self) -> dict[str, Any]:
        """The TVM target as a dictionary for ``tvm.target.Target``."""
        target: dict[str, Any] = {"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu", "mcpu": self.mcpu}
        if self.attributes:
            target["mattr"] = list(self.attributes)
        return target


def _level(name: str, lanes: int, flags: tuple[str, ...], *attributes: str) -> Isa:
    return Isa(
        name=name,
        mcpu=name.split("+")[0],
        attributes=attributes,
        lanes=lanes,
        registers=32 if lanes == 16 else 16,
        has_f16c="f16c" in flags,
        has_fma="fma" in flags,
        has_vnni="avx512_vnni" in flags,
        has_bf16_dot="avx512_bf16" in flags,
        cpu_flags=flags,
    )


_VNNI = (*_V4, "avx512_vnni")
# "prefer-256-bit" is off: LLVM would split 512-bit vectors on server parts where the full width is faster.
_WIDE = "-prefer-256-bit"

LEVELS: dict[str, Isa] = {
    level.name: level
    for level in (
        _level("x86-64-v2", 4, _V2),
        _level("x86-64-v3", 8, _V3),
        _level("x86-64-v4", 16, _V4, _WIDE),
        _level("x86-64-v4+vnni", 16, _VNNI, _WIDE, "+avx512vnni"),
        _level("x86-64-v4+vnni+bf16", 16, (*_VNNI, "avx512_bf16"), _WIDE, "+avx512vnni", "+avx512bf16"),
    )
}


@functools.cache
def cpu_model() -> str:
    """This machine's processor: its name, vendor, family, model and stepping, as names repeat."""
    names = ("model name", "vendor_id", "cpu family", "model", "stepping")
    return " ".join(_cpuinfo().get(name, "?") for name in names)


def _host_flags() -> frozenset[str]:
    return frozenset(_cpuinfo().get("flags", "").split())


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first CPU."""
    first = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
