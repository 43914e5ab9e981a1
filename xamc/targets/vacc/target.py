"""The VACC target: static graphs per bucket and rank, run by a simulator on the host."""

from __future__ import annotations

from xamc.passes.pipeline import Pipeline
from xamc.targets.planned import PlannedModel, TargetPlan
from xamc.targets.request import TargetOptions
from xamc.targets.target import Built, Target, Work
from xamc.targets.vacc.build import build
from xamc.targets.vacc.caps import CAPS
from xamc.targets.vacc.graphs import VaccGraphs
from xamc.targets.vacc.passes import passes
from xamc.targets.vacc.plan import plan
from xamc.targets.vacc.request import VaccRequest, read_request


class VaccTarget(Target[VaccRequest]):
    """See `Target`."""

    caps = CAPS
    graphs = VaccGraphs()

    def request(self, options: TargetOptions) -> VaccRequest:
        return read_request(options)

    def passes(self, request: VaccRequest) -> Pipeline:
        return passes(request)

    def plan(self, model: PlannedModel, request: VaccRequest) -> TargetPlan:
        return plan(model, request)

    def build(self, work: Work[VaccRequest]) -> Built:
        return build(work)


TARGET = VaccTarget()
