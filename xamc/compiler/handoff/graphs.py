"""The static graphs of a hand-off: the passes of VACC's contract in float32 on one rank, then in an old opset."""

from __future__ import annotations

from typing import Literal

from xamc.compiler.spec.model import Spec
from xamc.ir.weights.kv_scales import KvScales
from xamc.model.bucket import Bucket
from xamc.passes.graph.standard_ops import StandardOps
from xamc.passes.graph.vocab_padding import VocabPadding
from xamc.passes.graph.weight_storage import WeightStorage
from xamc.passes.pipeline import Pipeline
from xamc.passes.protocol import GraphPass
from xamc.targets.buckets import buckets_of, common_passes
from xamc.targets.vacc.names import VOCAB_MULTIPLE
from xamc.targets.vacc.passes import CONTRACT, bucket_passes

OnnxDtype = Literal["float32", "float16"]

OPSET = 14
# passes of the target's own compile that a hand-off doesn't run, or not for every model; a spec may name them
_ELSEWHERE = (
    "quantize_per_channel",
    "weight_storage",
    "kv_int8",
    "shard",
    "insert_slice",
    "vocab_padding",
    "embedding_output",
)


def handoff_pipeline(spec: Spec, dtype: OnnxDtype) -> Pipeline:
    """The passes of every graph.

    Args:
        spec: says the lengths.
        dtype: how weight matrices are stored; the arithmetic is float32.
    """
    is_embedding = not spec.total_lengths

    def of_bucket(bucket: Bucket, rope_rows: int, kv_scales: KvScales | None) -> list[GraphPass]:
        passes = bucket_passes(bucket, rope_rows, is_embedding)
        if not is_embedding:
            passes.append(VocabPadding(VOCAB_MULTIPLE))
        if dtype == "float16":
            passes.append(WeightStorage("float16"))
        return [*passes, StandardOps(OPSET)]

    return Pipeline(
        common=common_passes(),
        buckets=buckets_of(spec.prefill_lengths, spec.total_lengths),
        of_bucket=of_bucket,
        shared_tables=True,
        required=(*CONTRACT, "embedding_output", "standard_ops"),
        elsewhere=_ELSEWHERE,
    )
