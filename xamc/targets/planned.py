"""What a plan is made of: a model as its headers tell it, and what a target would write and take for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from xamc.jobs.progress import size
from xamc.model.config import ModelConfig
from xamc.model.kv_cache import kv_bytes_per_token

MIB = 2**20

# Measured on 2 cores at 2.5 GHz, memory rounded up; see docs/benchmarks/scale.md.
BASE_BYTES = 160 * MIB  # the compiling process with its libraries and a graph
CODEGEN_BYTES = 420 * MIB  # a generating child: tvm, LLVM and the kernels
CODEGEN_BYTES_PER_LAYER = 5 * MIB
RUN_BYTES = 200 * MIB  # the artifact's own run besides its weights, which are mapped
PACKER_BYTES = 200 * MIB  # one packing process with its blocks
_PACKED_PARAMETERS_PER_SECOND = 65e6  # of one process


@dataclass(frozen=True)
class PlannedFile:
    """One file of the artifact (of one rank, when there are several)."""

    path: str
    nbytes: int
    holds: str


@dataclass(frozen=True)
class PlannedStage:
    """One stage: what it will do, seconds and peak memory in bytes (estimates).

    `cached` says that the stage cache holds its result, so that it will be taken and not made.
    """

    name: str
    what: str
    seconds: float
    peak_bytes: int
    cached: bool = False


@dataclass(frozen=True)
class RunningMemory:
    """Bytes of a process that runs one sequence of full length.

    Attributes:
        weights: all of them.
        kv_sequence: KV cache of that sequence.
        activations: of the largest call, and the RoPE tables.
        base: everything else.
        kv_dtype: how keys and values are stored.
        context: tokens of the sequence.
    """

    weights: int
    kv_sequence: int
    activations: int
    base: int
    kv_dtype: str
    context: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.weights + self.kv_sequence + self.activations + self.base


@dataclass(frozen=True)
class Table:
    """A table of the printed plan, with a line below it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class PlannedModel:
    """A model and what is wanted of it, for a target's plan.

    Attributes:
        config: of the model.
        shapes: name → shape of every tensor of the checkpoint.
        input_bytes: of the checkpoint's files.
        stored: `frontend.quantize.type`, or empty.
        context_limit, prefill_chunk, max_batch: as for a compile.
        proofs: whether passes are proven on the twin.
        workers: processes that may work at the same time.
        in_full: whether everything is asked for, or the files alone, as a compile does before it starts.
    """

    config: ModelConfig
    shapes: Mapping[str, tuple[int, ...]]
    input_bytes: int
    stored: str
    context_limit: int
    prefill_chunk: int
    max_batch: int
    proofs: bool
    workers: int
    in_full: bool

    @property
    def parameters(self) -> int:
        """Scalars of all weights."""
        return sum(map(math.prod, self.shapes.values()))

    @property
    def holds(self) -> str:
        """What a file of all weights holds, in words."""
        return f"{len(self.shapes)} tensors" + (f", {self.stored}" if self.stored else "")

    def cache_bytes(self, kv_dtype: str, sequences: int, tokens: int | None = None) -> int:
        """Bytes of a KV cache for sequences of `tokens`, of the context limit when None."""
        return (
            kv_bytes_per_token(self.config, kv_dtype) * (self.context_limit if tokens is None else tokens) * sequences
        )


@dataclass(frozen=True)
class TargetPlan:
    """What a target would write and take.

    Attributes:
        files: what `Built.files` would be.
        weights: bytes of all weights, which the stage cache shares with the artifact.
        code: bytes of the generated code that the stage cache keeps as well.
        stages: the target's own, in order.
        answers: as of `Built`.
        run_bytes: memory of the artifact's own first run, its mapped weights included.
        run_seconds: what that run takes beside reading the files.
        kv_cache: bytes of the KV cache at full batch and length.
        running: what one sequence takes at run time, where that is known.
        dies: graph → what a die must hold while it runs; None for a target without dies.
        tables: to be printed behind the phases.
        lines: further lines of the totals, each with a word of up to 8 letters first.
        facts: what is in the plan's JSON besides.
    """

    files: tuple[PlannedFile, ...]
    weights: int
    stages: tuple[PlannedStage, ...]
    run_bytes: int
    code: int = 0
    answers: bool = True
    run_seconds: float = 0.0
    kv_cache: int = 0
    running: RunningMemory | None = None
    dies: tuple[tuple[str, int], ...] | None = None
    tables: tuple[Table, ...] = ()
    lines: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Size of the artifact."""
        return sum(file.nbytes for file in self.files)


def packing_stage(model: PlannedModel, weights: int) -> PlannedStage:
    """The stage that packs weights in several processes."""
    return PlannedStage(
        "weights",
        f"read {size(model.input_bytes)}, write {size(weights)}, {model.workers} processes",
        model.parameters / (_PACKED_PARAMETERS_PER_SECOND * model.workers),
        BASE_BYTES + model.workers * PACKER_BYTES,
    )
