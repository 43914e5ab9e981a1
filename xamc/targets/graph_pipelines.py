"""The graph passes of each target, in order."""

from __future__ import annotations

from typing import Literal, cast

from xamc.model.bucket import Bucket
from xamc.passes.graph.byte_codes import ByteCodes
from xamc.passes.graph.causal_mask import CausalMask
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.eager_attention import EagerAttention
from xamc.passes.graph.fp16_clamp import Fp16Clamp
from xamc.passes.graph.insert_slice import InsertSlice
from xamc.passes.graph.kv_cache import KvCache
from xamc.passes.graph.last_position import LastPosition
from xamc.passes.graph.norms import Norms
from xamc.passes.graph.phase import StaticPhase
from xamc.passes.graph.quantize_weights import QuantizeWeights
from xamc.passes.graph.rope_table import RopeTables
from xamc.passes.graph.swiglu import SwiGlu
from xamc.passes.graph.weight_storage import WeightStorage
from xamc.passes.protocol import GraphPass
from xamc.targets.request import TargetRequest


def _storage(request: TargetRequest) -> list[GraphPass]:
    if request.quantize is not None:
        return [QuantizeWeights.to_bits(request.quantize.bits, request.quantize.group_size)]
    if request.weight_dtype != "float32":
        return [WeightStorage(cast(Literal["float16", "bfloat16"], request.weight_dtype))]
    return []


# static Reshape shapes, one position's logits, and a cache in place are what the lowering and the runtime build on
CPU_REQUIRED_PASSES = ("cleanup", "last_position", "kv_cache")


def cpu_graph_passes(request: TargetRequest) -> list[GraphPass]:
    """In-place cache, logits of one position, weights as they are stored."""
    return [Cleanup(), Norms(), SwiGlu(), LastPosition(), KvCache(), *_storage(request)]


def reference_graph_passes(request: TargetRequest) -> list[GraphPass]:
    """The export as it is, tidied, with weights as they are stored."""
    return [Cleanup(), *_storage(request), ByteCodes()]


# what the contract of the static graphs consists of; insert_slice and fp16_clamp can be left out
STATIC_REQUIRED_PASSES = ("cleanup", "phase", "causal_mask", "rope_table", "eager_attention")


def static_common_passes() -> list[GraphPass]:
    """What is done once, before the graph is copied for every bucket."""
    return [Cleanup(), Norms(), SwiGlu()]


def vacc_graph_passes(bucket: Bucket, rope_rows: int | None = None) -> list[GraphPass]:
    """One static graph of VACC's form, in float32; its logits are those of the last position.

    Args:
        bucket: phase and length; the passes run on a copy of what `static_common_passes` left.
        rope_rows: positions of the RoPE tables, the longest length of all graphs that share them.
    """
    return [
        StaticPhase(bucket),
        CausalMask(),
        RopeTables(rope_rows),
        EagerAttention(),
        *([InsertSlice()] if bucket.kind == "prefill" else []),
        Fp16Clamp(),
    ]
