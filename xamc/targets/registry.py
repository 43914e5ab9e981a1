"""All targets, by the value of `backend.type`. This is the one place, besides its own package, that names a target."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from xamc.runtime.executors.registry import register_executor
from xamc.targets.caps import TargetCaps
from xamc.targets.spec_keys import SpecKeys

if TYPE_CHECKING:
    from xamc.targets.target import Target  # it knows the passes, and with them onnx

CAPS: dict[str, TargetCaps] = {}
"""Target → what it can do, in the order in which targets are listed."""

DEFAULT = "tvm_vacc"
"""Without `backend.type`, as in vamc."""

HOST = "tvm_cpu"
"""What runs on the machine at hand and computes in float32: what errors advise to compile for."""

_PACKAGES: dict[str, str] = {}


def register(package: str, executor: str | None = None) -> TargetCaps:
    """Makes a target known.

    Args:
        package: its dotted name; it has the modules that `xamc.targets.target` describes.
        executor: what runs its artifacts, for `xamc.runtime.executors.registry.register_executor`; None for a target
            of ours, whose executor the runtime knows without us.
    """
    caps = cast(TargetCaps, import_module(f"{package}.caps").CAPS)
    CAPS[caps.name], _PACKAGES[caps.name] = caps, package
    if executor is not None:
        register_executor(caps.name, executor)
    return caps


def spec_keys(name: str) -> SpecKeys:
    """What a target does with the keys of a spec."""
    return cast(SpecKeys, import_module(f"{_PACKAGES[name]}.keys").KEYS)


def target(name: str) -> Target[Any]:
    """The target called `name`."""
    return cast("Target[Any]", import_module(f"{_PACKAGES[name]}.target").TARGET)


for _package in ("cpu", "vacc", "ascend", "reference"):
    register(f"xamc.targets.{_package}")
