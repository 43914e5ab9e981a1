"""What the stages of a target of static graphs hand to each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from xamc.artifact.manifest import Phase, Quantization
from xamc.compiler.frontends import Checkpoint
from xamc.compiler.spec.model import Spec
from xamc.model.bucket import Bucket
from xamc.targets.request import StaticPasses, TargetRequest


@dataclass(frozen=True)
class StaticParts:
    """What the road before has found out.

    Attributes:
        spec, checkpoint: as read.
        request: with buckets, ranks and how parameters are stored.
        quantization: as asked for, and as used.
        passes: the target's, for this request.
        values: what the real weights do, for the report; None where they were not run.
    """

    spec: Spec
    checkpoint: Checkpoint
    request: TargetRequest
    quantization: Quantization
    passes: StaticPasses
    values: Mapping[str, Any] | None = None


def static_phases(buckets: Iterable[Bucket], ranks: int) -> tuple[Phase, ...]:
    """The manifest's phases: lengths of each kind."""
    buckets = list(buckets)
    lengths = {
        kind: tuple((bucket.length,) for bucket in buckets if bucket.kind == kind) for kind in ("prefill", "decode")
    }
    return tuple(
        Phase(kind, ("main",), found, ranks)  # type: ignore[arg-type]
        for kind, found in lengths.items()
        if found
    )
