"""The Ascend target: ONNX with gears for Huawei's ATC; never run on an NPU."""

from xamc.targets.ascend.build import build
from xamc.targets.ascend.caps import CAPS
from xamc.targets.ascend.passes import passes
from xamc.targets.ascend.plan import plan
from xamc.targets.ascend.request import read_request
from xamc.targets.target import Target

TARGET = Target(CAPS, read_request, passes, plan, build)
