"""The driver of the passes: proven on the twin, forked per bucket, split into ranks, counted and dumped."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests import twins
from xamc.errors import InputError, InternalError
from xamc.ir.program import Program
from xamc.model.bucket import Bucket
from xamc.passes.pipeline import Pipeline
from xamc.passes.protocol import PassReport, SameSignature
from xamc.targets.cpu.passes import passes as cpu_passes
from xamc.targets.cpu.request import CpuRequest
from xamc.targets.vacc.passes import passes as vacc_passes
from xamc.targets.vacc.request import VaccRequest
from xamc.verify.driver import Rewritten, rewrite

PREFILL, DECODE = Bucket("prefill", 16), Bucket("decode", 32)
REQUEST = VaccRequest("float16", None, "float16", buckets=(PREFILL, DECODE), tp=2, merge_params=True)


def _rewrite(pipeline: Pipeline, proven: bool = False, **more: Any) -> Rewritten:
    """The tied twin, in the place of a model and of its twin."""
    program, cases = twins.twin("tied")
    twin = (twins.twin("tied")[0], cases) if proven else None
    return rewrite(program, twin, pipeline, twin_seconds=0.5, **more)


def _of_buckets(passes: Pipeline, change: Any) -> Pipeline:
    return replace(passes, of_bucket=lambda *arguments: change(passes.of_bucket(*arguments)))


def test_every_bucket_and_rank_has_a_program(tmp_path: Path) -> None:
    graphs = _rewrite(vacc_passes(REQUEST), dump=lambda name, text: (tmp_path / name).write_text(text))
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


def test_an_embedding_model_has_no_head() -> None:
    graphs = _rewrite(vacc_passes(replace(REQUEST, buckets=(PREFILL,))))
    assert "embedding_output" in [run.name for run in graphs.runs["prefill_16"]]
    (rank, _) = graphs.ranks[PREFILL]
    assert [value.name for value in rank.model.graph.outputs] == ["logits"]


def test_proofs_cover_the_fork_and_the_ranks() -> None:
    graphs = _rewrite(vacc_passes(REQUEST), proven=True)
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
def test_a_wrong_pass_of_a_bucket_is_named(kind: str) -> None:
    def insert(passes: list[Any]) -> list[Any]:
        at = 1 + next(i for i, p in enumerate(passes) if p.name == "eager_attention")
        has_slice = any(p.name == "insert_slice" for p in passes)
        return [*passes[:at], WrongMask(), *passes[at:]] if has_slice == (kind == "prefill") else passes

    with pytest.raises(InternalError) as caught:
        _rewrite(_of_buckets(vacc_passes(REQUEST), insert), proven=True)
    assert caught.value.code == "E1309" and caught.value.message.startswith("wrong_mask changed the model's outputs")


def test_a_wrong_pass_before_the_fork_is_named() -> None:
    class Forgets(SameSignature):
        name, tolerance = "forgets", "exact"

        def run(self, program: Program) -> PassReport:
            attention = next(node for node in program.model.graph if node.op_type == "Attention")
            attention.replace_input_with(2, attention.inputs[1])
            return PassReport({"value": 1})

    passes = vacc_passes(REQUEST)
    wrong = replace(passes, common=[*passes.common, Forgets()])
    with pytest.raises(InternalError, match="forgets changed the model's outputs"):
        _rewrite(wrong, proven=True)


def test_a_pass_of_one_phase_can_be_left_out() -> None:
    graphs = _rewrite(vacc_passes(REQUEST), disable=("insert_slice", "swiglu"))
    assert "insert_slice" not in [run.name for run in graphs.runs["prefill_16"]]
    assert "swiglu" not in [run.name for run in graphs.runs["all"]]
    assert list(graphs.ranks[PREFILL][0].model.graph.outputs[0].shape or ())[1] == 16


@pytest.mark.parametrize(
    ("wanted", "code", "words"),
    [
        ({"disable": ("insert_slise",)}, "E1306", "insert_slise"),
        ({"disable": ("kv_cache",)}, "E1306", "kv_cache"),
        ({"disable": ("phase",)}, "E1314", "phase"),
        ({"disable": ("shard",)}, "E1314", "shard"),
        ({"expect": {"causal_masks": 1}}, "E1306", "causal_masks"),
        ({"expect": {"eager_attention": 1}}, "E1307", "eager_attention matched"),
        ({"expect": {"swiglu": 7}}, "E1307", "swiglu matched"),
        ({"expect": {"shard": 3}}, "E1307", "shard matched 2"),
    ],
)
def test_wanted_that_do_not_fit(wanted: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        _rewrite(vacc_passes(REQUEST), **wanted)
    assert caught.value.code == code and words in caught.value.message


def test_expectations_that_are_met() -> None:
    layers = twins.config("tied").num_layers
    met = {"swiglu": layers, "eager_attention": layers, "insert_slice": 1, "shard": 2}
    _rewrite(vacc_passes(REQUEST), expect=met)


def test_where_lengths_are_free_there_is_no_fork() -> None:
    """One list of passes, whose dumps name no bucket; what the target runs itself may be named and is not judged."""
    dumped: list[str] = []
    pipeline = cpu_passes(CpuRequest("float16", None, "float16"))
    made = _rewrite(pipeline, proven=True, expect={"norm_residual": 7}, dump=lambda name, text: dumped.append(name))
    assert not made.ranks and list(made.runs) == ["all"] == list(made.proofs)
    assert made.twin is not None and {"cache_key.0", "input_ids"} <= set(made.twin[1][0].feeds)
    assert dumped[0] == "11-cleanup.txt" and len(dumped) == len(pipeline.common)
    assert made.exported_twin is not None and made.exported_twin.model is not made.twin[0].model
    with pytest.raises(InputError, match="E1307"):
        _rewrite(pipeline, disable=("swiglu",), expect={"swiglu": 1})
