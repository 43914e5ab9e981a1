"""The graph passes of one target for one request, as data: before the fork, per bucket, and the split into ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xamc.ir.weights.kv_scales import KvScales
from xamc.model.bucket import Bucket
from xamc.passes.protocol import GraphPass, SplitsRanks

OfBucket = Callable[[Bucket, int, KvScales | None], list[GraphPass]]
"""(bucket, positions of the RoPE tables, scales of an int8 KV cache) → the passes of that bucket's copy, in order."""


def _none(bucket: Bucket, rope_rows: int, kv_scales: KvScales | None) -> list[GraphPass]:
    return []


@dataclass(frozen=True)
class Pipeline:
    """What `xamc.verify.driver` runs.

    Attributes:
        common: run once, before the graph is copied for every bucket; all there is where lengths are free.
        buckets: the static graphs; empty where lengths are free.
        of_bucket: the passes of a bucket.
        of_twin: as `of_bucket`, for a bucket of the twin; None where `of_bucket` serves it as well.
        split: what makes one program per rank of a bucket's graph; None where there is one rank.
        shared_tables: whether all buckets read the same RoPE tables, as long as the longest of them needs.
        required: names of passes that the target can't do without; a spec may not disable them.
        elsewhere: names of passes that are run by somebody else or not at all, and that a spec may hold.
    """

    common: Sequence[GraphPass]
    buckets: tuple[Bucket, ...] = ()
    of_bucket: OfBucket = _none
    of_twin: OfBucket | None = None
    split: SplitsRanks | None = None
    shared_tables: bool = False
    required: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of all passes, in order, those of `elsewhere` last."""
        names = [graph_pass.name for graph_pass in self.common]
        for bucket in self.buckets:
            names += [graph_pass.name for graph_pass in self.of_bucket(bucket, bucket.length, None)]
        split = [self.split.name] if self.split is not None else []
        return list(dict.fromkeys([*names, *split, *self.elsewhere]))
