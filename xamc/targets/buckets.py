"""What targets of static graphs have in common: lengths and ranks of a spec, passes before the fork, phases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from xamc.artifact.manifest import Phase
from xamc.errors import InputError, UnsupportedError
from xamc.model.bucket import Bucket
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.norms import Norms
from xamc.passes.graph.swiglu import SwiGlu
from xamc.passes.protocol import GraphPass
from xamc.targets.caps import TargetCaps
from xamc.targets.request import Request, TargetOptions

RANKS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class BucketRequest(Request):
    """What a target of static graphs is asked for: one per bucket."""

    buckets: tuple[Bucket, ...] = ()

    @property
    def is_embedding(self) -> bool:
        """Whether no decode phase was asked for: an embedding model."""
        return all(bucket.kind == "prefill" for bucket in self.buckets)


def common_passes() -> list[GraphPass]:
    """What is done once, before the graph is copied for every bucket."""
    return [Cleanup(), Norms(), SwiGlu()]


def read_buckets(options: TargetOptions, caps: TargetCaps) -> dict[str, Any]:
    """The buckets of a spec, for `Request.of`: a prefill graph per first length, a decode graph per second.

    Raises:
        InputError: E1413 a spec without lengths.
        UnsupportedError: E1414 a number of ranks that the target doesn't have.
    """
    if not options.prefill_lengths:
        raise InputError(
            "E1413",
            f"{caps.name} compiles graphs of fixed lengths, and frontend.shape.input_ids gives none",
            fix="add frontend.shape.input_ids: [[1024], [2048]], the prefill and the total lengths in tokens",
            keys=("frontend.shape.input_ids", "frontend.shape", "frontend.type"),
        )
    able = [ranks for ranks in RANKS if ranks <= caps.max_tensor_parallel]
    if options.tp not in able:
        several = "divides a model among 1, 2, 4, 8 or 16 ranks" if len(able) > 1 else "compiles for one device"
        raise UnsupportedError(
            "E1414",
            f"frontend.model_kwargs.tp is {options.tp}; {caps.name} {several}",
            fix="set tp to one of them" if len(able) > 1 else "set tp to 1, or remove it",
            keys=("frontend.model_kwargs.tp",),
        )
    return {"buckets": buckets_of(options.prefill_lengths, options.total_lengths)}


def buckets_of(prefill: Sequence[int], total: Sequence[int]) -> tuple[Bucket, ...]:
    """A bucket per length and phase; one that is given twice is one."""
    decode = (Bucket("decode", length) for length in total)
    return tuple(dict.fromkeys((*(Bucket("prefill", length) for length in prefill), *decode)))


def bucket_phases(buckets: Iterable[Bucket], ranks: int) -> tuple[Phase, ...]:
    """The manifest's phases: lengths of each kind."""
    lengths: dict[str, list[tuple[int]]] = {"prefill": [], "decode": []}
    for bucket in buckets:
        lengths[bucket.kind].append((bucket.length,))
    return tuple(
        Phase(kind, ("main",), tuple(found), ranks)  # type: ignore[arg-type]
        for kind, found in lengths.items()
        if found
    )
