"""The Ascend target: ONNX with gears for Huawei's ATC; never run on an NPU."""

from __future__ import annotations

from xamc.passes.pipeline import Pipeline
from xamc.targets.ascend.build import build
from xamc.targets.ascend.caps import CAPS
from xamc.targets.ascend.passes import passes
from xamc.targets.ascend.plan import plan
from xamc.targets.ascend.request import AscendRequest, read_request
from xamc.targets.planned import PlannedModel, TargetPlan
from xamc.targets.request import TargetOptions
from xamc.targets.target import Built, Target, Work


class AscendTarget(Target[AscendRequest]):
    """See `Target`."""

    caps = CAPS

    def request(self, options: TargetOptions) -> AscendRequest:
        return read_request(options)

    def passes(self, request: AscendRequest) -> Pipeline:
        return passes(request)

    def plan(self, model: PlannedModel, request: AscendRequest) -> TargetPlan:
        return plan(model, request)

    def build(self, work: Work[AscendRequest]) -> Built:
        return build(work)


TARGET = AscendTarget()
