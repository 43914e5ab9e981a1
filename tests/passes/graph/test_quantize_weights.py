import numpy as np
import pytest

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import PASSES, golden_text
from xamc.compiler.errors import InternalError, UnsupportedError
from xamc.compiler.verify.oracle import materialize
from xamc.compiler.verify.proof import prove
from xamc.passes.graph import quantize_weights
from xamc.passes.graph.quantize_weights import QuantizeWeights


def test_golden() -> None:
    check_golden(
        "passes/quantize_weights.txt",
        golden_text("quantize_weights", PASSES["quantize_weights"].make(quantize_weights)),
    )


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (8, 32), (8, None)])
@pytest.mark.parametrize("kind", twins.KINDS)
def test_proven_with_its_policy(kind: str, bits: int, group: int | None) -> None:
    program, cases = twins.twin(kind)
    report = prove([QuantizeWeights.to_bits(bits, group)], program, cases).require()  # type: ignore[arg-type]
    shared = 1 if kind == "tied" else 2
    expected = {"int8": 14 + shared} if bits == 8 else {"uint4": 14, "int8": shared}
    assert report.passes[-1].report.matched == expected
    dtypes = {name: tensor.dtype for name, tensor in program.weights.items()}
    assert dtypes["model.embed_tokens.weight.codes"] == "int8"
    assert dtypes["model.layers.1.mlp.down_proj.weight.codes"] == ("uint4" if bits == 4 else "int8")
    assert dtypes["model.norm.weight"] == "float32"
    assert program.weights["model.embed_tokens.weight.scales"].shape[1] == (
        1 if group is None else 64 // 32 + shared % 2
    )


def test_four_bits_cost_more_than_eight() -> None:
    costs = []
    for bits in (4, 8):
        program, cases = twins.twin("tied")
        costs.append(prove([QuantizeWeights.to_bits(bits, 32)], program, cases).passes[-1].cost)  # type: ignore[arg-type]
    assert costs[0] > 5 * costs[1] > 0


def test_the_lookup_is_a_gather_of_the_decoded_embedding() -> None:
    program = twins.after("tied", QuantizeWeights.to_bits(4, 32))
    (gather,) = twins.nodes(program, "Gather")
    decode = gather.inputs[0].producer()
    assert decode.op_type == "DequantizeLinear" and len(decode.inputs) == 2
    assert decode.attributes["axis"].as_int() == 1 and decode.attributes["block_size"].as_int() == 32


def test_wrong_codes_are_named() -> None:
    program, _ = twins.twin("tied")
    before = materialize(program.weights)
    graph_pass = QuantizeWeights.to_bits(4, 32)
    graph_pass.run(program)
    after = materialize(program.weights)
    graph_pass.decoded_weights(before, after)
    name = "model.layers.1.self_attn.v_proj.weight"
    codes = after[f"{name}.codes"].astype(np.uint8)
    codes[3, 40] ^= 8
    after[f"{name}.codes"] = codes
    with pytest.raises(InternalError) as error:
        graph_pass.decoded_weights(before, after)
    assert error.value.code == "E1308" and f"{name} row 3, group 1" in error.value.message


def test_a_group_that_does_not_divide_is_refused_with_what_would() -> None:
    program, _ = twins.twin("tied")
    with pytest.raises(UnsupportedError) as error:
        QuantizeWeights.to_bits(4, 64).run(program)
    assert error.value.code == "E1150" and "32" in error.value.fix
