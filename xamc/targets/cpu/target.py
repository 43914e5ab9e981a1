"""The CPU target: one library and one weights file, for any length."""

from __future__ import annotations

from xamc.passes.pipeline import Pipeline
from xamc.targets.cpu.build import build
from xamc.targets.cpu.caps import CAPS
from xamc.targets.cpu.graphs import CpuGraphs
from xamc.targets.cpu.passes import passes
from xamc.targets.cpu.plan import plan
from xamc.targets.cpu.request import CpuRequest, read_request
from xamc.targets.cpu.tune.tune import require_host
from xamc.targets.kernels.isa import Isa
from xamc.targets.planned import PlannedModel, TargetPlan
from xamc.targets.request import TargetOptions
from xamc.targets.target import Built, Target, Work


class CpuTarget(Target[CpuRequest]):
    """See `Target`."""

    caps = CAPS
    graphs = CpuGraphs()

    def request(self, options: TargetOptions) -> CpuRequest:
        """Also refuses levels that there are not (E1401, E1402), and a search for another machine's tiles (E1418)."""
        request = read_request(options)
        if request.tune:
            require_host(request.cpu_levels)
        else:
            Isa.rising(request.cpu_levels)
        return request

    def passes(self, request: CpuRequest) -> Pipeline:
        return passes(request)

    def plan(self, model: PlannedModel, request: CpuRequest) -> TargetPlan:
        return plan(model, request)

    def build(self, work: Work[CpuRequest]) -> Built:
        return build(work)


TARGET = CpuTarget()
