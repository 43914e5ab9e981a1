"""Which passes a spec may name, checked before anything is exported for it."""

from __future__ import annotations

from collections.abc import Sequence

from xamc.compiler.spec.model import Spec
from xamc.passes.graph import GRAPH_PASSES
from xamc.passes.runner import require_known_names
from xamc.targets.registry import StaticTarget, Target
from xamc.targets.request import TargetRequest


def pass_names(target: Target | StaticTarget, request: TargetRequest) -> list[str]:
    """Names of a target's passes for a request, in order."""
    if isinstance(target, StaticTarget):
        return target.static_passes(request).names
    return [graph_pass.name for graph_pass in target.graph_passes(request)] + list(target.own_passes)


def require_pass_names(spec: Spec, target: Target | StaticTarget, request: TargetRequest) -> None:
    """Refuses names in `passes.disable` and `passes.expect` that mean nothing on the target.

    Raises:
        InputError: E1306 a name that no pass has; E1314 a pass that the target can't do without.
    """
    required: Sequence[str] = (
        target.static_passes(request).required if isinstance(target, StaticTarget) else target.required_passes
    )
    require_known_names(spec.passes.disable, spec.passes.expect, pass_names(target, request), required)


def require_any_pass_names(spec: Spec) -> None:
    """The same where no pass of a language model runs, so that the section has no effect: its names must exist.

    Raises:
        InputError: E1306.
    """
    from xamc.targets.cpu.names import RELAX_PASS_NAMES

    require_known_names(spec.passes.disable, spec.passes.expect, [*GRAPH_PASSES, "shard", *RELAX_PASS_NAMES], ())
