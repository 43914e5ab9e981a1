"""The VACC target: static graphs per bucket and rank, run by a simulator on the host."""

from xamc.targets.kernels.isa import Isa
from xamc.targets.onnx.library import onnx_library
from xamc.targets.onnx_target import OnnxTarget
from xamc.targets.target import Target
from xamc.targets.vacc.build import build
from xamc.targets.vacc.caps import CAPS
from xamc.targets.vacc.names import GRAPH, ISA, LIBRARY, PARAMS
from xamc.targets.vacc.passes import passes
from xamc.targets.vacc.plan import plan
from xamc.targets.vacc.request import read_request

ONNX = OnnxTarget(
    LIBRARY,
    GRAPH,
    PARAMS,
    lambda graph, data, options, cache, dump: onnx_library(graph, data, Isa.by_name(ISA), cache, dump),
    has_dies=True,
)

TARGET = Target(CAPS, read_request, passes, plan, build, ONNX)
