"""Targets that can compile, by the value of `backend.type`; their modules are imported when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xamc.errors import UnsupportedError
from xamc.passes.protocol import GraphPass
from xamc.targets.base import CAPS, TargetCaps
from xamc.targets.request import Generated, StaticPasses, TargetRequest

if TYPE_CHECKING:
    from xamc.targets.cpu.tune.tune import Tuned


@dataclass(frozen=True)
class Target:
    """A target: its capabilities, its graph passes, the names of the passes it runs itself, and its generator.

    `required_passes` are graph passes without whose result the generator can't work; a spec may not disable them.
    `check` refuses a request that the generator would refuse, before anything is exported for it. `tune` searches for
    tiles when the request asks for it: (program, request, cache, progress) -> what it found.
    """

    caps: TargetCaps
    graph_passes: Callable[[TargetRequest], list[GraphPass]]
    own_passes: tuple[str, ...]
    generate: Callable[..., Generated]
    required_passes: tuple[str, ...] = ()
    check: Callable[[TargetRequest], object] = lambda request: None
    tune: Callable[..., Tuned] | None = None


@dataclass(frozen=True)
class StaticTarget:
    """A target of static graphs: its capabilities, and its graph passes.

    What it makes of the rewritten graphs is a stage of its own, see `xamc.compiler.stages.static_road`.
    """

    caps: TargetCaps
    static_passes: Callable[[TargetRequest], StaticPasses]
    check: Callable[[TargetRequest], object] = lambda request: None


def target(name: str) -> Target | StaticTarget:
    """The target called `name`.

    Raises:
        UnsupportedError: E1407 when it is known but can't compile yet.
    """
    caps: Any = CAPS.get(name)
    if caps is None or not caps.available:
        able = ", ".join(sorted(c.name for c in CAPS.values() if c.available))
        raise UnsupportedError(
            "E1407",
            f"the target {name} is not available yet; `xamc plan` describes what it would do",
            fix=f"compile for another target with --set backend.type=tvm_cpu ({able} are available)",
            keys=("backend.type",),
        )
    from xamc.targets.graph_pipelines import CPU_REQUIRED_PASSES, cpu_graph_passes, reference_graph_passes

    if name == "tvm_cpu":
        from xamc.targets.cpu.library import generate as generate_cpu
        from xamc.targets.cpu.names import RELAX_PASS_NAMES
        from xamc.targets.cpu.tune.tune import require_host, tune
        from xamc.targets.kernels.isa import Isa

        def check_level(request: TargetRequest) -> list[Isa]:
            return [require_host(request.cpu_levels)] if request.tune else Isa.rising(request.cpu_levels)

        return Target(caps, cpu_graph_passes, RELAX_PASS_NAMES, generate_cpu, CPU_REQUIRED_PASSES, check_level, tune)
    if name == "tvm_vacc":
        from xamc.targets.vacc.passes import static_passes

        return StaticTarget(caps, static_passes)
    if name == "tvm_ascend":
        from xamc.targets.ascend.passes import check, static_passes

        return StaticTarget(caps, static_passes, check)
    from xamc.targets.reference.build import generate as generate_reference

    return Target(caps, reference_graph_passes, (), generate_reference)
