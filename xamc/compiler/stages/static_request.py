"""What a spec asks of a target of static graphs: its buckets and ranks."""

from __future__ import annotations

from dataclasses import replace

from xamc.compiler.spec.model import Spec
from xamc.errors import InputError, UnsupportedError
from xamc.model.bucket import Bucket
from xamc.targets.ascend.assumptions import DEFAULT_SOC_VERSION
from xamc.targets.base import TargetCaps
from xamc.targets.request import AtcRequest, TargetRequest

RANKS = (1, 2, 4, 8, 16)
DEFAULT_ROUTE = "atc"


def static_request(spec: Spec, caps: TargetCaps, request: TargetRequest) -> TargetRequest:
    """`request` with buckets, ranks and whether the graphs of a rank share their parameters.

    Args:
        spec: `frontend.shape.input_ids` has the lengths, `frontend.model_kwargs.tp` the ranks.
        caps: the target's.
        request: what the target is asked for otherwise.

    Raises:
        InputError: E1413 a spec without lengths.
        UnsupportedError: E1414 a number of ranks that the target doesn't have; E1415 a road that isn't built yet.
    """
    if not spec.prefill_lengths or "input_ids" not in spec.frontend.shape:
        raise InputError(
            "E1413",
            f"{caps.name} compiles graphs of fixed lengths, and frontend.shape.input_ids gives none",
            fix="add frontend.shape.input_ids: [[1024], [2048]], the prefill and the total lengths in tokens",
            keys=("frontend.shape.input_ids", "frontend.shape", "frontend.type"),
        )
    able = [ranks for ranks in RANKS if ranks <= caps.max_tensor_parallel]
    if spec.tp not in able:
        several = "divides a model among 1, 2, 4, 8 or 16 ranks" if len(able) > 1 else "compiles for one device"
        raise UnsupportedError(
            "E1414",
            f"frontend.model_kwargs.tp is {spec.tp}; {caps.name} {several}",
            fix="set tp to one of them" if len(able) > 1 else "set tp to 1, or remove it",
            keys=("frontend.model_kwargs.tp",),
        )
    buckets = [Bucket("prefill", length) for length in dict.fromkeys(spec.prefill_lengths)]
    buckets += [Bucket("decode", length) for length in dict.fromkeys(spec.total_lengths)]
    request = replace(request, buckets=tuple(buckets), tp=spec.tp, merge_params=bool(spec.backend.merge_params))
    return replace(request, atc=_atc(spec)) if caps.name == "tvm_ascend" else request


def _atc(spec: Spec) -> AtcRequest:
    options = spec.backend.compile
    route = options.get("route", DEFAULT_ROUTE)
    if route != DEFAULT_ROUTE:
        raise UnsupportedError(
            "E1415",
            f"backend.compile.route is {route}, Ascend's road of fused kernels, which is not available yet",
            fix=f"set backend.compile.route: {DEFAULT_ROUTE}, the road through ONNX and ATC",
            keys=("backend.compile.route",),
        )
    gears = tuple((int(batch), int(slots)) for batch, slots in options.get("gears") or ())
    return AtcRequest(options.get("soc_version", DEFAULT_SOC_VERSION), gears, spec.runtime.max_batch)
