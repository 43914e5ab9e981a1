"""The CPU target's graph passes; its Relax passes are in `pipeline`."""

from __future__ import annotations

from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.kv_cache import KvCache
from xamc.passes.graph.last_position import LastPosition
from xamc.passes.graph.norms import Norms
from xamc.passes.graph.swiglu import SwiGlu
from xamc.passes.pipeline import Pipeline
from xamc.passes.relax import RELAX_PASSES
from xamc.targets.cpu.request import CpuRequest
from xamc.targets.storage_passes import storage_passes


def passes(request: CpuRequest) -> Pipeline:
    """In-place cache, logits of one position, weights as they are stored."""
    return Pipeline(
        common=[Cleanup(), Norms(), SwiGlu(), LastPosition(), KvCache(), *storage_passes(request)],
        # static Reshape shapes, one position's logits, and a cache in place are what lowering and runtime build on
        required=("cleanup", "last_position", "kv_cache"),
        elsewhere=RELAX_PASSES,
    )
