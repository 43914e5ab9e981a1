"""The VACC target's graph passes: once for all, per bucket, and the split into ranks."""

from __future__ import annotations

from xamc.ir.weights.kv_scales import KvScales
from xamc.model.bucket import Bucket
from xamc.passes.graph.embedding_output import EmbeddingOutput
from xamc.passes.graph.key_bias_apart import KeyBiasApart
from xamc.passes.graph.kv_int8 import KvInt8
from xamc.passes.graph.quantize_per_channel import QuantizePerChannel
from xamc.passes.graph.shard.split import Shard
from xamc.passes.graph.vocab_padding import VocabPadding
from xamc.passes.graph.weight_storage import WeightStorage
from xamc.passes.protocol import GraphPass
from xamc.targets.graph_pipelines import STATIC_REQUIRED_PASSES, static_common_passes, vacc_graph_passes
from xamc.targets.request import StaticPasses, TargetRequest

# vocabulary rows per hardware line
VOCAB_MULTIPLE = 16


def static_passes(request: TargetRequest) -> StaticPasses:
    """The passes that a request needs, in order.

    An embedding model (no decode bucket) gives hidden states of every position instead of logits and caches.
    """
    is_embedding = request.is_embedding

    def of_bucket(bucket: Bucket, rope_rows: int, kv_scales: KvScales | None) -> list[GraphPass]:
        passes = vacc_graph_passes(bucket, rope_rows)
        if is_embedding:
            passes = [EmbeddingOutput() if graph_pass.name == "insert_slice" else graph_pass for graph_pass in passes]
        else:
            passes.append(VocabPadding(VOCAB_MULTIPLE))
        if request.quantize is not None:
            passes.append(QuantizePerChannel())
        if kv_scales is not None and kv_scales.unbiased_keys:
            passes.append(KeyBiasApart())
        passes.append(WeightStorage("float16", vectors=True))
        if kv_scales is not None:
            passes.append(KvInt8(kv_scales))
        return passes

    return StaticPasses(
        common=static_common_passes(),
        of_bucket=of_bucket,
        split=Shard(request.tp),
        buckets=request.buckets,
        shared_tables=request.merge_params,
        required=(
            *STATIC_REQUIRED_PASSES,
            "embedding_output",
            "vocab_padding",
            "key_bias_apart",
            "weight_storage",
            "kv_int8",
            "shard",
        ),
    )
