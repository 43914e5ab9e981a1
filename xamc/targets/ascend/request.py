"""What the Ascend target reads of a spec."""

from __future__ import annotations

from dataclasses import dataclass

from xamc.errors import UnsupportedError
from xamc.targets.ascend.assumptions import DEFAULT_SOC_VERSION
from xamc.targets.ascend.caps import CAPS
from xamc.targets.buckets import BucketRequest, read_buckets
from xamc.targets.request import TargetOptions

DEFAULT_ROUTE = "atc"


@dataclass(frozen=True)
class AscendRequest(BucketRequest):
    """What the Ascend target is asked for.

    Attributes:
        soc_version: the NPU, in ATC's word.
        gears: (batch, active slots) of every gear of the one decode graph; empty for one static graph per length.
        rows: sequences that the KV cache holds.
    """

    soc_version: str = DEFAULT_SOC_VERSION
    gears: tuple[tuple[int, int], ...] = ()
    rows: int = 1

    @property
    def machine(self) -> str:
        """The NPU."""
        return self.soc_version


def read_request(options: TargetOptions) -> AscendRequest:
    """The request of a spec.

    Raises:
        InputError: E1413, see `read_buckets`.
        UnsupportedError: E1414; E1415 a route that isn't built yet; E1416 an embedding model.
    """
    buckets = read_buckets(options, CAPS)
    route = options.compile.get("route", DEFAULT_ROUTE)
    if route != DEFAULT_ROUTE:
        raise UnsupportedError(
            "E1415",
            f"backend.compile.route is {route}, Ascend's route of fused kernels, which is not available yet",
            fix=f"set backend.compile.route: {DEFAULT_ROUTE}, the route through ONNX and ATC",
            keys=("backend.compile.route",),
        )
    request = AscendRequest.of(
        options,
        soc_version=options.compile.get("soc_version", DEFAULT_SOC_VERSION),
        gears=tuple((int(batch), int(slots)) for batch, slots in options.compile.get("gears") or ()),
        rows=options.max_batch,
        **buckets,
    )
    if request.is_embedding:
        raise UnsupportedError(
            "E1416",
            "tvm_ascend makes a prefill and a decode graph, and frontend.shape.input_ids has no total length: an "
            "embedding model",
            fix="add a second list, [[512], [2048]], or compile the embedding model with backend.type: tvm_vacc",
            keys=("frontend.shape.input_ids",),
        )
    return request
