"""The VACC target's graph passes: once for all, per bucket, and the split into ranks."""

from __future__ import annotations

from xamc.ir.weights.kv_scales import KvScales
from xamc.model.bucket import Bucket
from xamc.passes.graph.causal_mask import CausalMask
from xamc.passes.graph.eager_attention import EagerAttention
from xamc.passes.graph.embedding_output import EmbeddingOutput
from xamc.passes.graph.fp16_clamp import Fp16Clamp
from xamc.passes.graph.insert_slice import InsertSlice
from xamc.passes.graph.key_bias_apart import KeyBiasApart
from xamc.passes.graph.kv_int8 import KvInt8
from xamc.passes.graph.phase import StaticPhase
from xamc.passes.graph.quantize_per_channel import QuantizePerChannel
from xamc.passes.graph.rope_table import RopeTables
from xamc.passes.graph.shard.split import Shard
from xamc.passes.graph.vocab_padding import VocabPadding
from xamc.passes.graph.weight_storage import WeightStorage
from xamc.passes.pipeline import Pipeline
from xamc.passes.protocol import GraphPass
from xamc.targets.buckets import common_passes
from xamc.targets.vacc.names import VOCAB_MULTIPLE
from xamc.targets.vacc.request import VaccRequest

# what the contract of the static graphs consists of; insert_slice and fp16_clamp can be left out
CONTRACT = ("cleanup", "phase", "causal_mask", "rope_table", "eager_attention")


def bucket_passes(bucket: Bucket, rope_rows: int | None = None, is_embedding: bool = False) -> list[GraphPass]:
    """One static graph of VACC's form, in float32, with the logits of the last position.

    An embedding model (no decode bucket) gives hidden states of every position instead of logits and caches.

    Args:
        bucket: phase and length; the passes run on a copy of what `common_passes` left.
        rope_rows: positions of the RoPE tables, the longest length of all graphs that share them.
        is_embedding: whether there are no logits.
    """
    passes: list[GraphPass] = [StaticPhase(bucket), CausalMask(), RopeTables(rope_rows), EagerAttention()]
    if is_embedding:
        passes.append(EmbeddingOutput())
    elif bucket.kind == "prefill":
        passes.append(InsertSlice())
    return [*passes, Fp16Clamp()]


def passes(request: VaccRequest) -> Pipeline:
    """The passes that a request needs, in order."""

    def of_bucket(bucket: Bucket, rope_rows: int, kv_scales: KvScales | None) -> list[GraphPass]:
        found = bucket_passes(bucket, rope_rows, request.is_embedding)
        if not request.is_embedding:
            found.append(VocabPadding(VOCAB_MULTIPLE))
        if request.quantize is not None:
            found.append(QuantizePerChannel())
        if request.unbiased_keys if kv_scales is None else kv_scales.unbiased_keys:
            found.append(KeyBiasApart())
        found.append(WeightStorage("float16", vectors=True))
        if request.kv_dtype == "int8":
            # without scales it can't be run, and has a name
            found.append(KvInt8(kv_scales))  # type: ignore[arg-type]
        return found

    return Pipeline(
        common=common_passes(),
        buckets=request.buckets,
        of_bucket=of_bucket,
        split=Shard(request.tp),
        shared_tables=request.merge_params,
        required=(
            *CONTRACT,
            "embedding_output",
            "vocab_padding",
            "key_bias_apart",
            "weight_storage",
            "kv_int8",
            "shard",
        ),
    )
