"""Instruction-set levels of x86-64 and aarch64 that the kernels are generated for.

A level is data: the generators ask how wide a vector is, how many registers there are and whether an instruction
exists, never for a level's name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from xamc.errors import UnsupportedError
from xamc.jobs import processor

_V1 = ("sse2",)
_V2 = (*_V1, "cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3")
_V3 = (*_V2, "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")


_X86 = "x86_64-unknown-linux-gnu"
_ARM = "aarch64-unknown-linux-gnu"


@dataclass(frozen=True)
class Isa:
    """One feature level.

    Attributes:
        name: ``x86-64``, ``x86-64-v2``, ``-v3``, ``-v4``, with ``+vnni`` and ``+bf16`` where they exist; ``aarch64``,
            ``aarch64+dotprod``, ``aarch64+i8mm``.
        mcpu: LLVM's name of the level.
        attributes: LLVM feature strings on top of `mcpu`.
        lanes: float32 elements of a vector register.
        registers: architectural vector registers.
        has_f16c: float16 conversion in one instruction.
        has_fma: fused multiply-add; without it products are rounded before they are added.
        has_vnni: a dot product of four unsigned with four signed bytes accumulated in int32: ``vpdpbusd``, ``usdot``,
            or ``sdot`` with the unsigned bytes moved into the signed range.
        has_bf16_dot: ``vdpbf16ps``, a dot product of pairs of bfloat16 accumulated in float32.
        emulate_vnni, emulate_bf16_dot: generate the same algorithm with plain instructions, for tests on machines
            without it.
        emulate_wide: the same for other instructions on vectors that are wider than the machine's.
        cpu_flags: what ``/proc/cpuinfo`` must list for the code to run.
        triple: LLVM's name of the architecture and system.
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
    emulate_wide: bool = False
    triple: str = _X86

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
                keys=("backend.compile.mcpu", "backend.compile.cpu"),
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
    def rising(names: Iterable[str]) -> list[Isa]:
        """The different levels that names of `backend.compile.cpu` mean, what can do most last.

        Raises:
            UnsupportedError: E1461, E1462.
        """
        wanted = {Isa.wanted(name).name for name in names}
        return [level for level in LEVELS.values() if level.name in wanted]

    @staticmethod
    def host() -> Isa:
        """The highest level that this machine's processor supports.

        Raises:
            UnsupportedError: E1462, the processor is neither an x86-64 nor an aarch64 with NEON.
        """
        return Isa.best(processor.cpu_features())

    @staticmethod
    def best(flags: Iterable[str]) -> Isa:
        """The highest level whose required flags are all in `flags` (names as in ``/proc/cpuinfo``)."""
        available = frozenset(flags)
        for level in reversed(LEVELS.values()):
            if available.issuperset(level.cpu_flags):
                return level
        raise UnsupportedError(
            "E1462",
            "this processor has neither sse2 (x86-64) nor asimd (aarch64), one of which the CPU target needs",
            fix="compile and run on an x86-64 or an aarch64 machine",
        )

    @property
    def is_arm(self) -> bool:
        """Whether it is a level of aarch64."""
        return self.triple == _ARM

    def target(self) -> dict[str, Any]:
        """The TVM target as a dictionary for ``tvm.target.Target``."""
        target: dict[str, Any] = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.mcpu}
        if self.attributes:
            target["mattr"] = list(self.attributes)
        return target


def _arm(name: str, flags: tuple[str, ...], *attributes: str) -> Isa:
    """A level of aarch64: every one has FMA and converts float16."""
    return Isa(
        name, "generic", ("+neon", *attributes), 4, 32, True, True, "asimddp" in flags, False, flags, triple=_ARM
    )


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


_NEON = ("asimd", "fp")
_VNNI = (*_V4, "avx512_vnni")
# "prefer-256-bit" is off: LLVM would split 512-bit vectors on server parts where the full width is faster.
# Neither gathers nor scatters: LLVM makes them of scalar accesses at the edges of tiles, the emulator that executes
# this code in tests lacks some, and where microcode guards gathers they are said to be slow. Neither way was timed.
_WIDE = ("-prefer-256-bit", "+prefer-no-gather", "+prefer-no-scatter")
# LLVM would take vpdpwssd apart again, into vpmaddwd and vpaddd, for a shorter chain that our many sums do not need.
_VNNI_CODE = (*_WIDE, "+avx512vnni", "+fast-dpwssd")

LEVELS: dict[str, Isa] = {
    level.name: level
    for level in (
        _level("x86-64", 4, _V1),
        _level("x86-64-v2", 4, _V2),
        _level("x86-64-v3", 8, _V3),
        _level("x86-64-v4", 16, _V4, *_WIDE),
        _level("x86-64-v4+vnni", 16, _VNNI, *_VNNI_CODE),
        _level("x86-64-v4+vnni+bf16", 16, (*_VNNI, "avx512_bf16"), *_VNNI_CODE, "+avx512bf16"),
        _arm("aarch64", _NEON),
        _arm("aarch64+dotprod", (*_NEON, "asimddp"), "+dotprod"),
        _arm("aarch64+i8mm", (*_NEON, "asimddp", "i8mm"), "+dotprod", "+i8mm"),
    )
}
