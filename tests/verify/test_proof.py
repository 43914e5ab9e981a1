"""The proof finds a wrong pass among right ones, and says which, where and since when."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
import pytest

from tests import twins
from xamc.errors import InternalError
from xamc.ir.onnx_graph import constant_node, new_node
from xamc.ir.program import Program
from xamc.ir.weights.lazy import ArrayTensor
from xamc.passes.graph.byte_codes import ByteCodes
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.kv_cache import KvCache
from xamc.passes.graph.last_position import LastPosition
from xamc.passes.graph.norms import Norms
from xamc.passes.graph.quantize_weights import QuantizeWeights
from xamc.passes.graph.swiglu import SwiGlu
from xamc.passes.graph.weight_storage import WeightStorage
from xamc.passes.protocol import GraphPass, PassReport, SameSignature
from xamc.verify.oracle import oracle_of
from xamc.verify.proof import PassProof, ProofReport, prove
from xamc.verify.scenario import load_cases, save_cases


@dataclass
class WrongEpsilon(SameSignature):
    """Multiplies the epsilon of one norm by 1000: a small error in one place."""

    tolerance: str = "reassociated"
    name: str = "wrong_epsilon"
    at: int = 2

    def run(self, program: Program) -> PassReport:
        norm = twins.nodes(program, "RMSNormalization")[self.at]
        norm.attributes.add(type(norm.attributes["epsilon"])("epsilon", norm.attributes["epsilon"].type, 1e-2))
        return PassReport({"norm": 1})


@dataclass
class WrongScale(SameSignature):
    """Inserts a new node that scales the attention output of the last layer by 1.0001."""

    tolerance: str = "reassociated"
    name: str = "wrong_scale"

    def run(self, program: Program) -> PassReport:
        graph = program.model.graph
        attention = twins.nodes(program, "Attention")[-1]
        (reader, index), *_ = attention.outputs[0].uses()
        factor = constant_node(np.array(1.0001, np.float32), "factor")
        product = new_node("Mul", [attention.outputs[0], factor.outputs[0]], ["scaled"], like=attention)
        product.outputs[0].type, product.outputs[0].shape = attention.outputs[0].type, attention.outputs[0].shape
        graph.insert_before(reader, [factor, product])
        reader.replace_input_with(index, product.outputs[0])
        return PassReport({"scale": 1})


@dataclass
class WrongMask(SameSignature):
    """Widens the sliding window by one: nothing but some positions of one layer change."""

    tolerance: str = "exact"
    name: str = "wrong_mask"

    def run(self, program: Program) -> PassReport:
        mask = twins.nodes(program, "SlidingWindowMask")[0]
        mask.attributes.add(type(mask.attributes["window"])("window", mask.attributes["window"].type, 4))
        return PassReport({"mask": 1})


def test_right_passes_are_proven_and_the_report_says_how_well() -> None:
    program, cases = twins.twin("windowed")
    report = prove([Cleanup(), SwiGlu(), LastPosition(), KvCache(), QuantizeWeights.to_bits(4, 32)], program, cases)
    names = ["export", "cleanup", "swiglu", "last_position", "kv_cache", "quantize_weights"]
    assert [proof.name for proof in report.passes] == names
    assert report.require() is report and report.failed is None
    assert report.worst.worst > 0 and report.seconds > 0
    assert {case.run for case in report.cases} == {"batch", "ragged"} and len(report.cases) == 8
    result = oracle_of(program).run(report.cases[0].feeds)
    np.testing.assert_array_equal(result["logits"], report.cases[0].fetches["logits"])


@pytest.mark.parametrize(
    ("wrong", "op", "value_module", "kind"),
    [
        (WrongEpsilon(), "RMSNormalization", "model.layers.1.input_layernorm", "tied"),
        (WrongEpsilon(at=4), "RMSNormalization", "model.norm", "windowed"),
        (WrongScale(), "Transpose", "model.layers.1.self_attn", "tied"),
        (WrongMask(), "SlidingWindowMask", "model.layers.1.self_attn", "windowed"),
    ],
    ids=["epsilon", "last_norm", "scale", "mask"],
)
@pytest.mark.parametrize("after_kv_cache", [False, True])
def test_a_wrong_pass_in_the_middle_is_named_with_its_first_node(
    wrong: GraphPass, op: str, value_module: str, kind: str, after_kv_cache: bool
) -> None:
    program, cases = twins.twin(kind)
    right: list[GraphPass] = [Cleanup(), SwiGlu(), LastPosition(), KvCache()]
    position = 4 if after_kv_cache else 2
    report = prove([*right[:position], wrong, *right[position:], QuantizeWeights.to_bits(8, 32)], program, cases)
    failed = report.failed
    assert failed is not None and failed.name == wrong.name
    assert report.passes[-1] is failed, "nothing is run on a wrong graph"
    assert failed.divergence is not None
    assert (failed.divergence.op, failed.divergence.module) == (op, value_module)
    with pytest.raises(InternalError) as error:
        report.require()
    assert error.value.code == "E1309"
    assert error.value.message.startswith(f"{wrong.name} changed the model's outputs: ")
    assert value_module in error.value.message


def test_new_nodes_upstream_are_suspects() -> None:
    program, cases = twins.twin("tied")
    failed = prove([WrongScale()], program, cases).failed
    assert failed is not None and failed.divergence is not None
    assert failed.divergence.suspects == ("Mul 'scaled'",)


@dataclass
class OnlyRaggedIsWrong(KvCache):
    """Ignores the write position of every row but the first: right for equal rows, wrong for a ragged batch."""

    name = "only_ragged_is_wrong"

    def run(self, program: Program) -> PassReport:
        report = super().run(program)
        graph = program.model.graph
        write = next(value for value in graph.inputs if value.name == "write_index")
        zero = constant_node(np.zeros(1, np.int64), "zero")
        first = new_node("Gather", [write, zero.outputs[0]], ["first_row"], axis=0)
        shape = new_node("Shape", [write], ["rows"])
        same = new_node("Expand", [first.outputs[0], shape.outputs[0]], ["same_for_all"])
        for node, size in ((first, [1]), (shape, [1]), (same, ["batch"])):
            node.outputs[0].type, node.outputs[0].shape = write.type, type(write.shape)(size)
        readers = [(node, index) for node, index in write.uses() if node.op_type in ("TensorScatter", "Add")]
        graph.insert_before(next(iter(graph)), [zero, first, shape, same])
        for node, index in readers:
            node.replace_input_with(index, same.outputs[0])
        return report


def test_an_error_that_only_a_ragged_batch_shows_is_found() -> None:
    program, cases = twins.twin("tied")
    failed = prove([Cleanup(), OnlyRaggedIsWrong()], program, cases).failed
    assert failed is not None and failed.name == "only_ragged_is_wrong"
    assert "ragged, decode 1" in failed.worst_at or "ragged" in failed.worst_at
    assert failed.divergence is not None and failed.divergence.module.startswith("model.layers.")


def test_an_export_that_differs_from_transformers_is_named() -> None:
    program, cases = twins.twin("tied")
    name = "model.layers.1.mlp.up_proj.weight"
    weight = np.array(program.weights[name].read_rows(0, 160))
    weight[5] *= 1.01
    program.weights[name] = ArrayTensor(weight)
    report = prove([Cleanup()], program, cases)
    assert report.failed is report.passes[0] and report.failed.name == "export"
    with pytest.raises(InternalError, match="export changed the model's outputs: logits"):
        report.require()


def test_nobody_is_told_to_disable_what_the_target_needs() -> None:
    wrong = ProofReport([PassProof("shard", "reassociated", 1e-5, worst=1.0, worst_at="logits")], 0.0, [])
    fixes = []
    for required, instead in ((), ""), (("shard",), ""), (("shard",), "tp: 1 compiles it undivided"):
        with pytest.raises(InternalError, match="E1309") as caught:
            wrong.require(required, instead)
        fixes.append(caught.value.fix)
    assert "passes.disable: [shard]" in fixes[0]
    assert not any("passes.disable" in fix for fix in fixes[1:]) and "tp: 1" in fixes[2] and "tp: 1" not in fixes[1]


def test_cases_survive_a_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    _, cases = twins.twin("tied")
    save_cases(cases, tmp_path / "cases.safetensors")
    loaded = {(case.run, case.step): case for case in load_cases(tmp_path / "cases.safetensors")}
    assert set(loaded) == {(case.run, case.step) for case in cases}
    for case in cases:
        other = loaded[case.run, case.step]
        assert set(other.feeds) == set(case.feeds) and set(other.fetches) == set(case.fetches)
        np.testing.assert_array_equal(other.feeds["input_ids"], case.feeds["input_ids"])
        np.testing.assert_array_equal(other.fetches["logits"], case.fetches["logits"])


@pytest.mark.parametrize("seed", range(6))
def test_any_selection_of_passes_in_any_order_is_proven(seed: int) -> None:
    """Targets choose and order passes freely, and `passes.disable` leaves some out."""
    random = Random(seed)
    storage = random.choice(
        [WeightStorage("float16"), QuantizeWeights.to_bits(4, 32), QuantizeWeights.to_bits(8, None)]
    )
    passes: list[GraphPass] = [Cleanup(), Norms(), SwiGlu(), LastPosition(), KvCache(), storage, ByteCodes()]
    program, cases = twins.twin(random.choice(twins.KINDS))
    prove(random.sample(passes, random.randint(2, len(passes))), program, cases).require()
