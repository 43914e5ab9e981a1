"""The static graphs of a hand-off: the passes of VACC's contract in float32 on one rank, then in an old opset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from xamc.compiler.spec.model import Passes, Spec
from xamc.compiler.stages.export import ExportedModel
from xamc.compiler.stages.job import Job
from xamc.ir.program import Program
from xamc.ir.text import program_text
from xamc.model.bucket import Bucket
from xamc.passes.graph.embedding_output import EmbeddingOutput
from xamc.passes.graph.standard_ops import StandardOps
from xamc.passes.graph.vocab_padding import VocabPadding
from xamc.passes.graph.weight_storage import WeightStorage
from xamc.passes.protocol import GraphPass
from xamc.passes.runner import require_known_names, run_passes, select_passes
from xamc.targets.graph_pipelines import STATIC_REQUIRED_PASSES, static_common_passes, vacc_graph_passes
from xamc.verify.proof import PassProof, prove
from xamc.verify.scenario import TWIN_DECODE_LENGTH, TWIN_PREFILL_LENGTH, Case

OnnxDtype = Literal["float32", "float16"]

OPSET = 14
VOCAB_MULTIPLE = 16
_TWIN_LENGTHS = {"prefill": TWIN_PREFILL_LENGTH, "decode": TWIN_DECODE_LENGTH}
_REQUIRED = (*STATIC_REQUIRED_PASSES, "embedding_output", "standard_ops")
# passes of the target's own compile that a hand-off doesn't run; a spec may name them all the same
_ELSEWHERE = ("quantize_per_channel", "weight_storage", "kv_int8", "shard", "insert_slice", "vocab_padding")


@dataclass(frozen=True)
class HandoffGraphs:
    """Bucket → program in opset 14, with the proofs of every pass on the twin (empty with `verify.passes: off`)."""

    programs: dict[Bucket, Program]
    proofs: tuple[PassProof, ...]


def buckets_of(spec: Spec) -> tuple[Bucket, ...]:
    """One prefill graph per first length, one decode graph per second."""
    prefill = [Bucket("prefill", length) for length in spec.prefill_lengths]
    return (*prefill, *(Bucket("decode", length) for length in spec.total_lengths))


def static_graphs(job: Job, exported: ExportedModel, spec: Spec, dtype: OnnxDtype) -> HandoffGraphs:
    """Rewrites the exported program for every bucket, after proving each pass on the twin.

    Args:
        job: the hand-off.
        exported: program and twin; both are rewritten in place.
        spec: lengths, and the passes to leave out.
        dtype: how weight matrices are stored; the arithmetic is float32.

    Raises:
        InputError: E1306, E1307, E1314 from the spec's `passes`.
        InternalError: E1309 a pass left its tolerance, E1305 or E1457 a graph breaks the rules.
    """
    buckets = buckets_of(spec)
    wishes = spec.passes
    proofs = [] if exported.twin is None else _prove(exported.twin, buckets, wishes, dtype)
    rows = max(bucket.length for bucket in buckets)
    _run(exported.program, static_common_passes(), wishes, common=True)
    programs: dict[Bucket, Program] = {}
    for bucket in buckets:
        program = _copy(exported.program)
        _run(program, _of_bucket(bucket, rows, buckets, dtype), wishes)
        programs[bucket] = program
        job.dump(f"20-{bucket.name}.txt", program_text(program))
    return HandoffGraphs(programs, tuple(proofs))


def _of_bucket(bucket: Bucket, rope_rows: int, buckets: Sequence[Bucket], dtype: OnnxDtype) -> list[GraphPass]:
    """An embedding model (no decode bucket) gives hidden states of every position instead of logits and caches."""
    passes = vacc_graph_passes(bucket, rope_rows)
    if all(other.kind == "prefill" for other in buckets):
        passes = [EmbeddingOutput() if graph_pass.name == "insert_slice" else graph_pass for graph_pass in passes]
    else:
        passes.append(VocabPadding(VOCAB_MULTIPLE))
    if dtype == "float16":
        passes.append(WeightStorage("float16"))
    return [*passes, StandardOps(OPSET)]


def _prove(
    twin: tuple[Program, list[Case]], buckets: Sequence[Bucket], wishes: Passes, dtype: OnnxDtype
) -> list[PassProof]:
    program, cases = twin
    common = prove(_chosen(static_common_passes(), wishes), program, cases).require(_REQUIRED)
    proofs = list(common.passes)
    for kind in dict.fromkeys(bucket.kind for bucket in buckets):
        passes = _of_bucket(Bucket(kind, _TWIN_LENGTHS[kind]), TWIN_DECODE_LENGTH, buckets, dtype)
        fresh = [Case(case.run, case.step, dict(case.feeds), dict(case.fetches)) for case in common.cases]
        proofs += prove(_chosen(passes, wishes), _copy(program), fresh).require(_REQUIRED).passes[1:]
    return proofs


def _chosen(passes: list[GraphPass], wishes: Passes) -> list[GraphPass]:
    return select_passes(passes, wishes.disable, _names(), _REQUIRED)


def _run(program: Program, passes: list[GraphPass], wishes: Passes, common: bool = False) -> None:
    """The words for what the export yields are counted once, before the graph is copied for every bucket."""
    own = [graph_pass.name for graph_pass in passes]
    expect = {name: count for name, count in wishes.expect.items() if common or name in own}
    run_passes(program, _chosen(passes, wishes), expect=expect, elsewhere=_names())


def require_handoff_pass_names(spec: Spec) -> None:
    """Refuses names in `passes` that no pass of a hand-off has, before anything is exported.

    Raises:
        InputError: E1306, E1314.
    """
    require_known_names(spec.passes.disable, spec.passes.expect, _names(), _REQUIRED)


def _names() -> list[str]:
    """Every name that `passes.disable` may hold: those of both phases, and of passes that only a compile runs."""
    lists = [static_common_passes(), vacc_graph_passes(Bucket("prefill", 16)), vacc_graph_passes(Bucket("decode", 16))]
    return list(dict.fromkeys([*(p.name for passes in lists for p in passes), *_ELSEWHERE, *_REQUIRED]))


def _copy(program: Program) -> Program:
    return Program(program.model.clone(), dict(program.weights), program.config)
