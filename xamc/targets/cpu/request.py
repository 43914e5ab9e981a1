"""What the CPU target reads of a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xamc.errors import InputError
from xamc.targets.kernels.tiles import DEFAULT_CHOICE, TileChoice
from xamc.targets.request import Request, TargetOptions


@dataclass(frozen=True)
class CpuRequest(Request):
    """What the CPU target is asked for.

    Attributes:
        cpu_levels: CPU levels to generate code for, `native` for this machine's.
        activations: float32, bfloat16, int8 or int16: what linear layers multiply their inputs as.
        tune: whether the best tiles of the kernels are searched for on this machine.
        tiles: what was found.
    """

    cpu_levels: tuple[str, ...] = ("native",)
    activations: str = "float32"
    tune: bool = False
    tiles: TileChoice = DEFAULT_CHOICE

    @property
    def machine(self) -> str:
        """The CPU levels."""
        return ", ".join(self.cpu_levels)


def read_request(options: TargetOptions) -> CpuRequest:
    """The request of a spec.

    Raises:
        InputError: E1481 CPU levels that contradict each other.
    """
    levels, tune = _cpu_levels(options.compile), options.compile.get("tune") == "on"
    return CpuRequest.of(options, cpu_levels=levels, activations=options.activations, tune=tune)


def mcpu(compile: Mapping[str, Any]) -> str:
    """LLVM's name of the CPU to compile for, `native` for the machine that compiles."""
    return str(compile.get("mcpu", "native"))


def _cpu_levels(compile: Mapping[str, Any]) -> tuple[str, ...]:
    """The levels of `cpu`, or the one of `mcpu`; not both, and `cpu` neither empty nor with a level twice."""
    levels = compile.get("cpu")
    if levels is None:
        return (mcpu(compile),)
    keys = ("backend.compile.cpu", "backend.compile.mcpu")
    if "mcpu" in compile:
        raise InputError(
            "E1481",
            "backend.compile.cpu and backend.compile.mcpu both say which CPUs to generate code for",
            fix="remove one of them; cpu takes a list of levels",
            keys=keys,
        )
    if not levels or len(set(levels)) != len(levels):
        raise InputError(
            "E1481",
            f"backend.compile.cpu is {list(levels)}; it takes different levels, at least one",
            fix="list each CPU level once, for example [x86-64-v3, x86-64-v4]",
            keys=keys[:1],
        )
    return tuple(map(str, levels))
