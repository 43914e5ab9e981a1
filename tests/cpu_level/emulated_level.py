"""Another CPU level than this machine's for a whole process: what it is said to have, its code in what it has.

`XAMC_TEST_LEVEL=x86-64-v4+vnni+bf16 make test` runs the suite as on a machine of that level. Whatever asks which
level the host is gets this one, and kernels are generated with its tiles, its packing and its arithmetic; but the
instructions are those that the machine has: LLVM makes several vectors of one that is too wide, and `emulate_vnni`,
`emulate_bf16_dot` and `emulate_wide` of `Isa` write the others in plain ones. A level below the machine's needs
nothing of that.

The package knows nothing of it. `begin` (called by tests/conftest.py) puts this folder on PYTHONPATH, where the
`sitecustomize.py` in it takes the same change to every Python process that a test starts, however deep.

This module imports nothing of the package until something else does: processes stay as light as they were.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xamc.targets.kernels.isa import Isa

FLAGS = "XAMC_TEST_CPU_FLAGS"
"""Environment variable of child processes: what /proc/cpuinfo is to list."""


def begin(name: str) -> None:
    """Makes this process, and all that it will start, one of the level called `name`.

    Raises:
        ValueError: this machine can't emulate it.
        UnsupportedError: E1461, no such level.
    """
    from xamc.targets.kernels.isa import Isa

    level, machine = Isa.by_name(name), Isa.host()
    if level.is_arm != machine.is_arm:
        raise ValueError(f"{name} can't be emulated on {machine.name}")
    os.environ[FLAGS] = " ".join(level.cpu_flags)
    os.environ["PYTHONPATH"] = python_path(Path(__file__).parent)
    install()


def python_path(first: Path) -> str:
    """PYTHONPATH for a test's process with a folder of its own; what is there already takes the level along."""
    return os.pathsep.join([str(first), *filter(None, [os.environ.get("PYTHONPATH")])])


def install() -> None:
    """Changes the two modules that know the machine, now or when they are imported."""
    for name, change in _CHANGES.items():
        if name in sys.modules:
            change(sys.modules[name])
    sys.meta_path.insert(0, _Finder())


def emulated(level: Isa, machine: Isa) -> Isa:
    """A level's algorithms in instructions that `machine`, the level of a processor, has."""
    if set(level.cpu_flags) <= set(machine.cpu_flags) or level.is_arm != machine.is_arm:
        return level
    return replace(
        level,
        mcpu=machine.mcpu,
        attributes=machine.attributes,
        has_f16c=machine.has_f16c,
        has_fma=machine.has_fma,
        emulate_vnni=level.has_vnni and not machine.has_vnni,
        emulate_bf16_dot=level.has_bf16_dot and not machine.has_bf16_dot,
        emulate_wide=level.lanes > machine.lanes,
    )


def real_machine() -> Isa:
    """The level of this machine's processor, also where the process is made one of another."""
    from xamc.targets.kernels import isa

    return getattr(isa, "_real", (isa.Isa.host(),))[0]


def real_levels() -> dict[str, Isa]:
    """All levels in their own instructions, whoever executes them: for assembly, and for other machines."""
    from xamc.targets.kernels import isa

    return getattr(isa, "_real", (None, isa.LEVELS))[1]


def _change_isa(isa: Any) -> None:
    """`Isa.host()` is the wanted level, and no level needs an instruction that the machine lacks."""
    from xamc.jobs import processor

    machine, levels = isa.Isa.best(_real_features()), dict(isa.LEVELS)
    isa._real = machine, levels
    wanted = processor.cpu_features()
    isa.LEVELS.update({n: emulated(level, machine) for n, level in levels.items() if wanted >= set(level.cpu_flags)})


def _change_processor(module: Any) -> None:
    """A reader of the machine's file of flags that finds the wanted ones there; other files are read as ever."""
    read, flags = module.cpu_features, frozenset(os.environ[FLAGS].split())

    def wanted(cpuinfo: Path = module.CPUINFO) -> frozenset[str]:
        return flags if cpuinfo == module.CPUINFO else read(cpuinfo)

    module._real, module.cpu_features = read, wanted


def _real_features() -> frozenset[str]:
    """What this machine has."""
    from xamc.jobs import processor

    read: Callable[[], frozenset[str]] = getattr(processor, "_real", processor.cpu_features)
    return read()


_CHANGES: dict[str, Callable[[Any], None]] = {
    "xamc.jobs.processor": _change_processor,
    "xamc.targets.kernels.isa": _change_isa,
}


class _Finder(MetaPathFinder):
    """Finds the two modules as ever; they are changed when their code has run."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _CHANGES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Changing(spec.loader, _CHANGES[name])
        return spec


class _Changing(Loader):
    def __init__(self, loader: Loader, change: Callable[[Any], None]) -> None:
        self._loader, self._change = loader, change

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._change(module)

    def __getattr__(self, name: str) -> Any:
        """What else is asked of a module's loader: its source, its path."""
        return getattr(self._loader, name)
