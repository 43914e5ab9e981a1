"""What a target is asked for, and what it gives back; data only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xamc.artifact.manifest import Code, Cpu, Phase
from xamc.ir.weights.kv_scales import KvScales
from xamc.ir.weights.quantize import RoundToNearest
from xamc.model.bucket import Bucket
from xamc.passes.protocol import GraphPass, SplitsRanks
from xamc.targets.kernels.tiles import DEFAULT_CHOICE, TileChoice
from xamc.targets.pack_weights import PackedWeight


@dataclass(frozen=True)
class AtcRequest:
    """What a spec says for Ascend's ATC road.

    Attributes:
        soc_version: the NPU, in ATC's word.
        gears: (batch, active slots) of every gear of the one decode graph; empty for one static graph per length.
        rows: sequences that the KV cache holds.
    """

    soc_version: str
    gears: tuple[tuple[int, int], ...]
    rows: int


@dataclass(frozen=True)
class TargetRequest:
    """The part of a spec that a target reads.

    Attributes:
        weight_dtype: float32, float16 or bfloat16: how unquantized matrices are stored.
        quantize: how linear weights are rounded, or None.
        kv_dtype: element type of the KV cache.
        unbiased_keys: whether a calibrated int8 cache may hold keys without their biases.
        cpu_levels: CPU levels to generate code for, `native` for this machine's; the CPU target alone takes several.
        activations: float32, bfloat16, int8 or int16: what linear layers multiply their inputs as.
        disable: names of passes to leave out.
        tune: whether the best tiles of the kernels are searched for on this machine.
        tiles: what was found.
        buckets: the static graphs a target of fixed shapes makes; empty for dynamic shapes.
        tp: tensor-parallel degree, the number of ranks.
        merge_params: whether the graphs of a rank share one file of weights.
        atc: the ATC road's part, for Ascend.
    """

    weight_dtype: str
    quantize: RoundToNearest | None
    kv_dtype: str
    cpu_levels: tuple[str, ...] = ("native",)
    activations: str = "float32"
    disable: tuple[str, ...] = ()
    tune: bool = False
    tiles: TileChoice = DEFAULT_CHOICE
    buckets: tuple[Bucket, ...] = ()
    tp: int = 1
    merge_params: bool = False
    atc: AtcRequest | None = None
    unbiased_keys: bool = False

    @property
    def is_embedding(self) -> bool:
        """Whether static graphs without a decode phase were asked for: an embedding model."""
        return bool(self.buckets) and all(bucket.kind == "prefill" for bucket in self.buckets)


@dataclass(frozen=True)
class StaticPasses:
    """The graph passes of a target of static shapes.

    Attributes:
        common: run once, before the graph is copied for every bucket.
        of_bucket: (bucket, positions of the RoPE tables, scales of an int8 KV cache or None) -> the passes of that
            bucket's copy, in order.
        split: what makes one program per rank of a bucket's graph; None where there is one rank.
        buckets: the buckets of the compile.
        shared_tables: whether all buckets read the same RoPE tables, as long as the longest of them needs.
        required: names of passes that the target can't do without.
        of_twin: as `of_bucket`, for a bucket of the twin; None where `of_bucket` serves it as well.
    """

    common: list[GraphPass]
    of_bucket: Callable[[Bucket, int, KvScales | None], list[GraphPass]]
    split: SplitsRanks | None
    buckets: tuple[Bucket, ...]
    shared_tables: bool = False
    required: tuple[str, ...] = ()
    of_twin: Callable[[Bucket, int, KvScales | None], list[GraphPass]] | None = None

    @property
    def names(self) -> list[str]:
        """Names of all passes, in order."""
        names = [graph_pass.name for graph_pass in self.common]
        for bucket in self.buckets:
            names += [graph_pass.name for graph_pass in self.of_bucket(bucket, bucket.length, None)]
        return list(dict.fromkeys([*names, *([self.split.name] if self.split is not None else [])]))


@dataclass(frozen=True)
class Generated:
    """What a target made of a program.

    Attributes:
        code: the file to put at `code_name` in the artifact, made for `cpu`.
        variants: further libraries, each file with its place in the artifact and its CPU, rising.
        weights: what to write to the weights file, in the order of the weights tuple.
        buffers: (name, dtype, shape) of every buffer in that file, in order.
        passes: reports of the passes the target ran by itself (Relax), as JSON.
        seconds: time by step.
        step: the file of the program of one token, to be put beside the code; None where there is none.
        decode: how one token is run, or why it is no program; None where a target has but one way.
        kv_block: positions of a block of the KV cache, 0 where it is contiguous.
    """

    code: Path
    code_name: str
    functions: tuple[str, ...]
    phases: tuple[Phase, ...]
    cpu: Cpu
    buffers: tuple[tuple[str, str, tuple[int, ...]], ...]
    weights: tuple[PackedWeight, ...]
    passes: tuple[Mapping[str, Any], ...] = ()
    kernel_proof: Mapping[str, Any] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    kv_block: int = 0
    step: Path | None = None
    decode: str | None = None
    variants: tuple[tuple[Path, Code], ...] = ()
