"""Every family's static graphs divided among ranks: all ranks together against the undivided graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from tests import twins
from tests.golden_files import check_golden, first_layer, rewrite_text
from tests.passes.graph.sharded import DECODE, PREFILL, Wrong, static
from xamc.errors import InternalError
from xamc.ir.onnx_graph import dims, new_node
from xamc.ir.program import Program
from xamc.ir.text import program_text
from xamc.ir.weights.lazy import ArrayTensor
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.embedding_output import EmbeddingOutput
from xamc.passes.graph.shard import Shard
from xamc.passes.graph.swiglu import SwiGlu
from xamc.targets.buckets import common_passes
from xamc.targets.vacc.passes import bucket_passes
from xamc.verify.proof import PassProof, prove
from xamc.verify.rank_proof import prove_split

# llama is the twin of three groups, which has biases everywhere
NAMES = ("internlm", "internlm2", "internlm3", "qwen2", "qwen3", "mistral")
BUCKETS = {"prefill": PREFILL, "decode": DECODE}


@pytest.mark.parametrize(("phase", "tp"), [("prefill", 4), ("decode", 2)])
@pytest.mark.parametrize("name", NAMES)
def test_ranks_together_equal_one(name: str, phase: str, tp: int) -> None:
    """Six heads in two groups: one group a rank, or two ranks to a group of three heads, one of them padded."""
    program, cases = static(name, BUCKETS[phase])
    proof = prove_split(Shard(tp), program, cases)
    assert proof.ok, f"{proof.worst_at} is off by {proof.worst:.2g}; {proof.divergence}"
    assert proof.worst > 0, "sums over ranks have another order: equal to the bit means that nothing was compared"
    assert proof.report.matched == {"rank": tp, "all_reduce": 4, "all_gather": 1}


@pytest.mark.parametrize("tp", [2, 4, 8, 16])
@pytest.mark.parametrize("phase", BUCKETS)
def test_padded_groups(phase: str, tp: int) -> None:
    """Nine heads in three groups, an MLP of 160, 192 or 256 columns with padding, and biases after sums over ranks."""
    program, cases = static(twins.THREE_GROUPS, BUCKETS[phase])
    assert prove_split(Shard(tp), program, cases).ok


@pytest.mark.parametrize(("phase", "tp"), [("prefill", 2), ("decode", 8)])
def test_one_kv_head(phase: str, tp: int) -> None:
    """Five heads, padded to six and eight; an axis of one KV head looks like any axis of size 1."""
    program, cases = static(twins.ONE_KV_HEAD, BUCKETS[phase])
    assert prove_split(Shard(tp), program, cases).ok


@pytest.mark.parametrize(
    ("name", "phase", "tp"),
    [
        (twins.THREE_GROUPS, "prefill", 4),
        (twins.THREE_GROUPS, "decode", 2),
        ("windowed", "decode", 8),
        ("internlm", "prefill", 2),
        ("internlm", "decode", 4),
    ],
)
def test_weights_and_caches_as_they_are_stored(name: str, phase: str, tp: int) -> None:
    program, cases = static(name, BUCKETS[phase], stored=True)
    assert {tensor.dtype for tensor in program.weights.values()} == {"int8", "float16", "float32"}
    proof = prove_split(Shard(tp), program, cases)
    assert proof.ok, f"{proof.worst_at} is off by {proof.worst:.2g}; {proof.divergence}"


@pytest.mark.parametrize("kind", twins.KINDS)
def test_fused_attention_on_dynamic_shapes(kind: str) -> None:
    program, cases = twins.twin(kind)
    cases = prove([Cleanup(), SwiGlu()], program, cases).require().cases
    assert prove_split(Shard(4), program, cases).ok


def test_an_embedding_model_gathers_nothing() -> None:
    program, cases = twins.twin("tied")
    passes = [*common_passes(), *bucket_passes(PREFILL)]
    passes = [EmbeddingOutput() if step.name == "insert_slice" else step for step in passes]
    cases = prove(passes, program, cases).require().cases
    proof = prove_split(Shard(2), program, cases)
    assert proof.ok and proof.report.matched == {"rank": 2, "all_reduce": 4}


def test_golden_of_the_first_rank() -> None:
    """What a division does to a decode graph; the second of two layers is the same again."""
    program, _ = static(twins.THREE_GROUPS, DECODE)
    before = first_layer(program_text(program))
    after = first_layer(program_text(Shard(2).split(program)[0]))
    check_golden("passes/shard.txt", rewrite_text(before, after))


def test_one_rank_is_the_program_itself() -> None:
    program, cases = static("windowed", DECODE)
    (rank,) = Shard(1).split(program)
    assert program_text(rank) == program_text(program) and rank.weights == program.weights
    assert rank.model is not program.model
    assert prove_split(Shard(1), program, cases).worst == 0


def test_ranks_differ_in_weights_alone_and_the_program_is_left_as_it_was() -> None:
    program, _ = static(twins.THREE_GROUPS, DECODE, stored=True)
    before, weights = program_text(program), dict(program.weights)
    ranks = Shard(4).split(program)
    assert all(rank.model is ranks[0].model and rank.model is not program.model for rank in ranks)
    assert program_text(program) == before and program.weights == weights
    shapes = [{name: (t.shape, t.dtype) for name, t in rank.weights.items()} for rank in ranks]
    assert all(shape == shapes[0] for shape in shapes)


def test_caches_have_a_ranks_own_kv_heads() -> None:
    for bucket in BUCKETS.values():
        program, _ = static(twins.THREE_GROUPS, bucket)
        rank = Shard(2).split(program)[1]
        values = [v for v in (*rank.model.graph.inputs, *rank.model.graph.outputs) if "_key." in str(v.name)]
        assert len(values) == (2 if bucket is PREFILL else 4)
        assert all((dims(value) or ())[1] == 2 for value in values)


# ways to divide wrongly, each of which the proof must notice


def _swap(part: str) -> Callable[[list[Program]], None]:
    def change(programs: list[Program]) -> None:
        for name in programs[0].weights:
            if part in name:
                a, b = programs[:2]
                a.weights[name], b.weights[name] = b.weights[name], a.weights[name]

    return change


def _without(op: str, index: int) -> Callable[[list[Program]], None]:
    def change(programs: list[Program]) -> None:
        for program in programs:
            node = twins.nodes(program, op)[index]
            identity = new_node("Identity", [node.inputs[0]], ["kept"], like=node)
            identity.outputs[0].type, identity.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
            program.model.graph.insert_before(node, identity)
            node.outputs[0].replace_all_uses_with(identity.outputs[0])
            program.model.graph.remove(node, safe=True)

    return change


def _bias_everywhere(programs: list[Program]) -> None:
    for program in programs[1:]:
        for name in program.weights:
            if name.endswith("o_proj.bias"):
                program.weights[name] = programs[0].weights[name]


def _noise_in_padding(part: str) -> Callable[[list[Program]], None]:
    """Fills the last rows or columns, which padding owns on the last rank."""

    def change(programs: list[Program]) -> None:
        weights = programs[-1].weights
        for name in weights:
            if part in name:
                array = weights[name].read_rows(0, weights[name].shape[0])
                array[..., -1] = 1.0
                weights[name] = ArrayTensor(array)

    return change


def _one_norm_differs(programs: list[Program]) -> None:
    name = "model.layers.1.input_layernorm.weight"
    tensor = programs[1].weights[name]
    programs[1].weights[name] = ArrayTensor(tensor.read_rows(0, tensor.shape[0]) * 1.001)


WRONG = {
    "q heads of two ranks": ("qwen2", 2, _swap("1.self_attn.q_proj")),
    "v heads of two ranks": ("qwen2", 2, _swap("0.self_attn.v_proj")),
    "o_proj columns of two ranks": ("qwen2", 2, _swap("o_proj")),
    "gate columns of two ranks": ("qwen2", 2, _swap("gate_proj")),
    "vocabulary of two ranks": ("qwen2", 2, _swap("lm_head")),
    "no sum after attention": ("qwen2", 2, _without("AllReduce", 0)),
    "no sum after the MLP": ("qwen2", 2, _without("AllReduce", 3)),
    "the bias of o_proj on both ranks": ("internlm", 2, _bias_everywhere),
    "a norm weight that differs": ("qwen2", 2, _one_norm_differs),
    # the last of four ranks has two of its group's three heads' places, and one head
    "columns of a padded head": ("qwen2", 4, _noise_in_padding("o_proj.weight")),
}


def _proof(wrong: str) -> PassProof:
    name, tp, change = WRONG[wrong]
    return prove_split(Wrong(tp, change), *static(name, DECODE))


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_division_is_noticed_and_placed(wrong: str) -> None:
    proof = _proof(wrong)
    assert not proof.ok
    assert proof.divergence is not None and proof.divergence.error > proof.bound


@pytest.mark.parametrize(
    ("wrong", "module", "value"),
    [
        ("no sum after the MLP", "model.layers.1", "rank0."),
        ("v heads of two ranks", "model.layers.0.self_attn.o_proj", ""),
        ("a norm weight that differs", "model.layers.1.input_layernorm", "rank1."),
        ("vocabulary of two ranks", "lm_head", "logits"),
    ],
)
def test_the_first_wrong_value_is_named(wrong: str, module: str, value: str) -> None:
    divergence = _proof(wrong).divergence
    assert divergence is not None
    assert divergence.module == module and divergence.value.startswith(value)


# what can't be divided


def _refusal(program: Program, tp: int = 2) -> InternalError:
    with pytest.raises(InternalError) as error:
        Shard(tp).split(program)
    return error.value


def _between_heads(op: str, name: str, **attributes: object) -> Program:
    """An operator between the first layer's heads and their product with o_proj."""
    program, _ = static("qwen2", PREFILL)
    mixed = next(node for node in program.model.graph if node.op_type == "Softmax").outputs[0]
    (reader, operand), *_ = mixed.uses()
    node = new_node(op, [mixed], [name], like=reader, **attributes)
    node.outputs[0].type, node.outputs[0].shape = mixed.type, mixed.shape
    program.model.graph.insert_before(reader, node)
    reader.replace_input_with(operand, node.outputs[0])
    return program


def test_an_operator_across_heads_is_named() -> None:
    for op, attributes in (("Softmax", {"axis": 1}), ("Tile", {}), ("Split", {"axis": 1})):
        error = _refusal(_between_heads(op, "across", **attributes))
        assert error.code == "E1333" and f"{op} 'across' in model.layers.0.self_attn" in error.message


def test_a_constant_per_head_is_refused() -> None:
    program, _ = static("qwen2", PREFILL)
    scale = next(
        node for node in program.model.graph if node.op_type == "Mul" and "scores" in str(node.outputs[0].name)
    )
    constant = scale.inputs[1].producer()
    assert constant is not None
    heads = (dims(scale.outputs[0]) or ())[1]
    array = np.ones((1, heads, 1, 1), np.float32)
    constant.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))
    constant.outputs[0].shape = ir.Shape(array.shape)
    error = _refusal(program)
    assert error.code == "E1333" and "is shared out as" in error.message


def test_a_bias_that_would_be_added_once_per_rank_is_refused() -> None:
    program, _ = static("internlm", PREFILL)
    add = next(
        node
        for node in program.model.graph
        if node.op_type == "Add" and any("o_proj.bias" in str(v.name) for v in node.inputs)
    )
    node = new_node(
        "Neg", [add.inputs[1] if "bias" in str(add.inputs[1].name) else add.inputs[0]], ["negative"], like=add
    )
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), node.inputs[0].shape
    program.model.graph.insert_before(add, node)
    error = _refusal(program)
    assert error.code == "E1333" and "the bias of a layer" in error.message


def test_weights_of_another_size_are_refused() -> None:
    program, _ = static("qwen2", PREFILL)
    value = next(v for v in program.weight_inputs() if str(v.name).endswith("0.self_attn.k_proj.weight"))
    value.shape = ir.Shape([16, (dims(value) or ())[1]])
    error = _refusal(program)
    assert error.code == "E1332" and str(value.name) in error.message
