"""Static graphs that the sharding tests divide, and ways to divide them wrongly."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from tests import twins
from tests.passes.graph.cases import DECODE, PREFILL
from xamc.ir.program import Program
from xamc.model.bucket import Bucket
from xamc.passes.graph.kv_int8 import KvInt8
from xamc.passes.graph.quantize_per_channel import QuantizePerChannel
from xamc.passes.graph.shard import Shard, ShardPlan
from xamc.passes.graph.vocab_padding import VocabPadding
from xamc.passes.graph.weight_storage import WeightStorage
from xamc.passes.protocol import GraphPass
from xamc.targets.buckets import common_passes
from xamc.targets.vacc.passes import bucket_passes
from xamc.verify.kv_calibration import scales_of_cases
from xamc.verify.proof import prove
from xamc.verify.scenario import Case

__all__ = ["DECODE", "PREFILL", "Wrong", "static"]


def static(name: str, bucket: Bucket, stored: bool = False) -> tuple[Program, list[Case]]:
    """A twin's static graph in float32, or with all weights `stored` as the target stores them (int8 linear layers,
    int8 caches, float16 everything else), and what it answers."""
    program, cases = _static(name, bucket, stored)
    return twins.copy(program), cases


@functools.cache
def _static(name: str, bucket: Bucket, stored: bool) -> tuple[Program, list[Case]]:
    program, cases = twins.twin(name)
    storage: list[GraphPass] = []
    if stored:
        scales = scales_of_cases(program.config, cases)
        storage = [QuantizePerChannel(), WeightStorage("float16", vectors=True), KvInt8(scales)]
    passes = [*common_passes(), *bucket_passes(bucket), VocabPadding(), *storage]
    fresh = [Case(case.run, case.step, dict(case.feeds), dict(case.fetches)) for case in cases]
    return program, prove(passes, program, fresh).require().cases


@dataclass(frozen=True)
class Wrong:
    """Divides as `Shard` does, and then changes the ranks' programs."""

    tp: int
    change: Callable[[list[Program]], None]
    name: str = "shard"
    tolerance: str = "reassociated"

    def plan(self, program: Program) -> ShardPlan:
        return Shard(self.tp).plan(program)

    def split(self, program: Program) -> list[Program]:
        programs = [twins.copy(rank) for rank in Shard(self.tp).split(program)]
        self.change(programs)
        return programs
