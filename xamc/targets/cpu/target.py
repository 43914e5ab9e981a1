"""The CPU target: one library and one weights file, for any length."""

from xamc.targets.cpu.build import build
from xamc.targets.cpu.caps import CAPS
from xamc.targets.cpu.onnx_models import ONNX
from xamc.targets.cpu.passes import passes
from xamc.targets.cpu.plan import plan
from xamc.targets.cpu.request import CpuRequest, read_request
from xamc.targets.cpu.tune.tune import require_host
from xamc.targets.kernels.isa import Isa
from xamc.targets.request import TargetOptions
from xamc.targets.target import Target


def request(options: TargetOptions) -> CpuRequest:
    """The request of a spec, whose CPU levels exist (E1461) and, to be tuned for, are this machine's (E1418)."""
    found = read_request(options)
    if found.tune:
        require_host(found.cpu_levels)
    Isa.rising(found.cpu_levels)
    return found


TARGET = Target(CAPS, request, passes, plan, build, ONNX)
