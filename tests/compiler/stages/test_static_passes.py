"""The passes of static graphs as a compile runs them: forked per bucket, proven on the twin, split into ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests import twins
from xamc.compiler.spec.model import Passes
from xamc.compiler.stages.export import ExportedModel
from xamc.compiler.stages.job import CompileOptions, Job
from xamc.compiler.stages.static_passes import rewrite_static
from xamc.errors import InputError, InternalError
from xamc.ir.program import Program
from xamc.jobs.cache import StageCache
from xamc.jobs.progress import Progress
from xamc.model.bucket import Bucket
from xamc.passes.protocol import PassReport, SameSignature
from xamc.targets.request import StaticPasses, TargetRequest
from xamc.targets.vacc.passes import static_passes

PREFILL, DECODE = Bucket("prefill", 16), Bucket("decode", 32)
REQUEST = TargetRequest("float16", None, "float16", buckets=(PREFILL, DECODE), tp=2, merge_params=True)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    with StageCache(tmp_path) as cache:
        yield Job(CompileOptions(dump_ir=tmp_path), cache, Progress(Console(quiet=True)), 1)


def _exported(with_twin: bool = False) -> ExportedModel:
    """The tied twin, in the place of a model and of its twin."""
    program, cases = twins.twin("tied")
    return ExportedModel(program, (twins.twin("tied")[0], cases) if with_twin else None, 0.5)


def _of_buckets(passes: StaticPasses, change: Any) -> StaticPasses:
    return replace(passes, of_bucket=lambda *arguments: change(passes.of_bucket(*arguments)))


def test_every_bucket_and_rank_has_a_program(job: Job, tmp_path: Path) -> None:
    graphs = rewrite_static(job, _exported(), static_passes(REQUEST), Passes())
    assert list(graphs.ranks) == [PREFILL, DECODE] and all(len(ranks) == 2 for ranks in graphs.ranks.values())
    names = {place: [run.name for run in runs] for place, runs in graphs.runs.items()}
    assert names["all"] == ["cleanup", "norms", "swiglu"]
    assert names["prefill_16"][0] == "phase" and names["prefill_16"][-1] == "shard"
    assert set(names["prefill_16"]) - set(names["decode_32"]) == {"insert_slice"}
    # merged parameters: both graphs have the tables of the longer one
    assert {ranks[0].weights["rope_cos"].shape[0] for ranks in graphs.ranks.values()} == {32}
    assert not graphs.proofs and graphs.proof_seconds == 0
    assert {entry["bucket"] for entry in graphs.report()} == {"all", "prefill_16", "decode_32"}
    assert list(tmp_path.glob("*prefill_16-causal_mask.txt")) and list(tmp_path.glob("19-decode_32-rank0.txt"))


def test_an_embedding_model_has_no_head(job: Job) -> None:
    graphs = rewrite_static(job, _exported(), static_passes(replace(REQUEST, buckets=(PREFILL,))), Passes())
    assert "embedding_output" in [run.name for run in graphs.runs["prefill_16"]]
    (rank, _) = graphs.ranks[PREFILL]
    assert [value.name for value in rank.model.graph.outputs] == ["logits"]


def test_proofs_cover_the_fork_and_the_ranks(job: Job) -> None:
    graphs = rewrite_static(job, _exported(with_twin=True), static_passes(REQUEST), Passes())
    proven = {(place, proof.name) for place, report in graphs.proofs.items() for proof in report.passes}
    assert {("all", "swiglu"), ("prefill", "insert_slice"), ("decode", "causal_mask")} <= proven
    assert set(graphs.split_proofs) == {"prefill", "decode"} and graphs.proof_seconds > 0.5
    for entry in graphs.report():
        assert entry["deviation"] is not None, f"{entry['name']} of {entry['bucket']} has no proof"


@dataclass
class WrongMask(SameSignature):
    """Adds the first layer's scores to themselves and forgets the mask: a defect that no invariant sees."""

    tolerance: str = "exact"
    name: str = "wrong_mask"

    def run(self, program: Program) -> PassReport:
        softmax = next(node for node in program.model.graph if node.op_type == "Softmax")
        masked = softmax.inputs[0].producer() if softmax.inputs[0] is not None else None
        assert masked is not None and masked.op_type == "Add"
        masked.replace_input_with(1, masked.inputs[0])
        return PassReport({"mask": 1})


@pytest.mark.parametrize("kind", ["prefill", "decode"])
def test_a_wrong_pass_of_a_bucket_is_named(kind: str, job: Job) -> None:
    def insert(passes: list[Any]) -> list[Any]:
        at = 1 + next(i for i, p in enumerate(passes) if p.name == "eager_attention")
        has_slice = any(p.name == "insert_slice" for p in passes)
        return [*passes[:at], WrongMask(), *passes[at:]] if has_slice == (kind == "prefill") else passes

    with pytest.raises(InternalError) as caught:
        rewrite_static(job, _exported(with_twin=True), _of_buckets(static_passes(REQUEST), insert), Passes())
    assert caught.value.code == "E1309" and caught.value.message.startswith("wrong_mask changed the model's outputs")


def test_a_wrong_pass_before_the_fork_is_named(job: Job) -> None:
    class Forgets(SameSignature):
        name, tolerance = "forgets", "exact"

        def run(self, program: Program) -> PassReport:
            attention = next(node for node in program.model.graph if node.op_type == "Attention")
            attention.replace_input_with(2, attention.inputs[1])
            return PassReport({"value": 1})

    passes = static_passes(REQUEST)
    wrong = replace(passes, common=[*passes.common, Forgets()])
    with pytest.raises(InternalError, match="forgets changed the model's outputs"):
        rewrite_static(job, _exported(with_twin=True), wrong, Passes())


def test_a_pass_of_one_phase_can_be_left_out(job: Job) -> None:
    graphs = rewrite_static(job, _exported(), static_passes(REQUEST), Passes(disable=("insert_slice", "swiglu")))
    assert "insert_slice" not in [run.name for run in graphs.runs["prefill_16"]]
    assert "swiglu" not in [run.name for run in graphs.runs["all"]]
    assert list(graphs.ranks[PREFILL][0].model.graph.outputs[0].shape or ())[1] == 16


@pytest.mark.parametrize(
    ("wishes", "code", "words"),
    [
        (Passes(disable=("insert_slise",)), "E1306", "insert_slise"),
        (Passes(disable=("kv_cache",)), "E1306", "kv_cache"),
        (Passes(disable=("phase",)), "E1314", "phase"),
        (Passes(disable=("shard",)), "E1314", "shard"),
        (Passes(expect={"causal_masks": 1}), "E1306", "causal_masks"),
        (Passes(expect={"eager_attention": 1}), "E1307", "eager_attention matched"),
        (Passes(expect={"swiglu": 7}), "E1307", "swiglu matched"),
        (Passes(expect={"shard": 3}), "E1307", "shard matched 2"),
    ],
)
def test_wishes_that_do_not_fit(wishes: Passes, code: str, words: str, job: Job) -> None:
    with pytest.raises(InputError) as caught:
        rewrite_static(job, _exported(), static_passes(REQUEST), wishes)
    assert caught.value.code == code and words in caught.value.message


def test_expectations_that_are_met(job: Job) -> None:
    layers = twins.config("tied").num_layers
    met = Passes(expect={"swiglu": layers, "eager_attention": layers, "insert_slice": 1, "shard": 2})
    rewrite_static(job, _exported(), static_passes(REQUEST), met)
