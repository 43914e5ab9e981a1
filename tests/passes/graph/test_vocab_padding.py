import numpy as np
import onnx_ir as ir
import pytest

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import PASSES, PREFILL, golden_text
from xamc.errors import InternalError
from xamc.ir.names import WEIGHT_ROLE
from xamc.ir.onnx_graph import dims, new_node
from xamc.ir.tolerances import tolerance
from xamc.passes.graph import vocab_padding
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.last_position import LastPosition
from xamc.passes.graph.vocab_padding import VocabPadding
from xamc.passes.graph.weight_storage import WeightStorage
from xamc.passes.protocol import GraphPass
from xamc.targets.vacc.passes import bucket_passes
from xamc.verify.metrics import relative_error
from xamc.verify.oracle import oracle_of, read_all
from xamc.verify.proof import prove


def test_golden() -> None:
    check_golden("passes/vocab_padding.txt", golden_text("vocab_padding", PASSES["vocab_padding"].make(vocab_padding)))


@pytest.mark.parametrize("kind", twins.KINDS)
def test_against_transformers_with_zeros_behind(kind: str) -> None:
    program, cases = twins.twin(kind)
    report = VocabPadding().run(program)
    assert report.matched == {"weight": 1, "logits": 1}
    oracle = oracle_of(program)
    for case in cases[:2]:
        logits = oracle.run(case.feeds)["logits"]
        assert logits.shape[-1] == 112 and not logits[..., 100:].any()
        assert relative_error(logits[..., :100], case.fetches["logits"]) <= tolerance("export_fp32")


def test_a_tied_embedding_is_padded_with_the_head() -> None:
    program, _ = twins.twin("tied")
    VocabPadding().run(program)
    name = "model.embed_tokens.weight"
    assert "lm_head.weight" not in program.weights and program.weights[name].shape == (112, 96)
    stored = read_all(program.weights[name])
    np.testing.assert_array_equal(stored[:100], read_all(twins.twin("tied")[0].weights[name]))
    assert not stored[100:].any()


def test_weights_stay_lazy_and_are_read_in_blocks() -> None:
    program, _ = twins.twin("windowed")
    whole = read_all(program.weights["lm_head.weight"])
    VocabPadding().run(program)
    tensor = program.weights["lm_head.weight"]
    blocks = np.concatenate([tensor.read_rows(at, min(at + 33, 112)) for at in range(0, 112, 33)])
    np.testing.assert_array_equal(blocks, np.pad(whole, ((0, 12), (0, 0))))


@pytest.mark.parametrize("kind", twins.KINDS)
@pytest.mark.parametrize(
    ("passes", "width"),
    [
        ((Cleanup(), VocabPadding(), WeightStorage("float16")), 112),
        ((Cleanup(), LastPosition(), WeightStorage("float16"), VocabPadding(24)), 120),
        ((Cleanup(), VocabPadding(), *bucket_passes(PREFILL)), 112),
    ],
)
def test_proven_among_other_passes(kind: str, passes: tuple[GraphPass, ...], width: int) -> None:
    program, cases = twins.twin(kind)
    prove(passes, program, cases).require()
    assert (dims(program.model.graph.outputs[0]) or ())[-1] == width


def test_a_bias_of_the_head_is_padded_too() -> None:
    program, _ = twins.twin("windowed")
    graph = program.model.graph
    bias = ir.val("lm_head.bias", dtype=ir.DataType.FLOAT, shape=[100])
    bias.metadata_props[WEIGHT_ROLE] = "float32"
    graph.inputs.append(bias)
    logits = graph.outputs[0]
    add = new_node("Add", [logits, bias], ["biased"])
    add.outputs[0].type, add.outputs[0].shape = logits.type, logits.shape
    graph.append(add)
    logits.name, add.outputs[0].name = "product", "logits"
    graph.outputs[0] = add.outputs[0]
    assert VocabPadding().run(program).matched == {"weight": 2, "logits": 1}
    assert [(dims(v) or ())[-1] for v in (bias, logits, add.outputs[0])] == [112] * 3


def test_a_vocabulary_that_fits_is_left_alone() -> None:
    program, _ = twins.twin("tied")
    report = VocabPadding(20).run(program)
    assert report.total == 0 and report.skipped[0].reason == "a vocabulary of 100 is a multiple of 20"


def test_another_head_is_refused_by_name() -> None:
    program, _ = twins.twin("tied")
    twins.nodes(program, "MatMul")[-1].outputs[0].name = "product"
    norm = twins.nodes(program, "RMSNormalization")[-1].outputs[0]
    norm.name = "logits"
    program.model.graph.outputs[0] = norm
    with pytest.raises(InternalError) as error:
        VocabPadding().run(program)
    assert error.value.code == "E1330" and "RMSNormalization" in error.value.message
