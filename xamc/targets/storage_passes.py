"""The graph pass that stores weights as a request wants them."""

from __future__ import annotations

from typing import Literal, cast

from xamc.passes.graph.quantize_weights import QuantizeWeights
from xamc.passes.graph.weight_storage import WeightStorage
from xamc.passes.protocol import GraphPass
from xamc.targets.request import Request


def storage_passes(request: Request) -> list[GraphPass]:
    """One pass, or none where the weights stay float32."""
    if request.quantize is not None:
        return [QuantizeWeights.to_bits(request.quantize.bits, request.quantize.group_size)]
    if request.weight_dtype != "float32":
        return [WeightStorage(cast(Literal["float16", "bfloat16"], request.weight_dtype))]
    return []
