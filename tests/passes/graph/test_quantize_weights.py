import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import PASSES, golden_text
from xamc.errors import InternalError, UnsupportedError
from xamc.ir.onnx_graph import add_function, new_node
from xamc.passes.graph import quantize_weights
from xamc.passes.graph.quantize_weights import QuantizeWeights, dequantize_groups_function
from xamc.verify.oracle import Oracle, materialize
from xamc.verify.proof import prove


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


def _dequantize_model(rows: int, columns: int, groups: int, codes: ir.DataType) -> onnx.ModelProto:
    """A graph that only calls the function."""
    inputs = [
        ir.val("codes", dtype=codes, shape=[rows, columns]),
        ir.val("scales", dtype=ir.DataType.FLOAT16, shape=[rows, groups]),
        ir.val("zeros", dtype=ir.DataType.FLOAT16, shape=[rows, groups]),
    ]
    call = new_node("DequantizeGroups", inputs, ["w"], domain="xamc")
    call.outputs[0].type, call.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([rows, columns])
    graph = ir.Graph(inputs, call.outputs, nodes=[call], opset_imports={"": 24}, name="g")
    model = ir.Model(graph, ir_version=11)
    add_function(model, dequantize_groups_function())
    return ir.serde.serialize_model(model)


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("byte", [False, True])
def test_the_function_is_its_definition(group: int, byte: bool) -> None:
    """(q - zero) * scale in float64 against onnx's reference evaluator and ONNX Runtime, for K = 576."""
    rng = np.random.default_rng(group)
    rows, columns = 5, 576
    codes = rng.integers(0, 16, (rows, columns)).astype(np.uint8 if byte else ml_dtypes.uint4)
    scales = rng.uniform(0.01, 0.1, (rows, columns // group)).astype(np.float16)
    zeros = rng.uniform(0, 15, scales.shape).astype(np.float16)
    wide = [np.repeat(array.astype(np.float64), group, axis=1) for array in (scales, zeros)]
    expected = (codes.astype(np.float64) - wide[1]) * wide[0]
    proto = _dequantize_model(rows, columns, scales.shape[1], ir.DataType.UINT8 if byte else ir.DataType.UINT4)
    onnx.checker.check_model(proto, full_check=True)
    feeds = {"codes": codes, "scales": scales, "zeros": zeros}
    evaluated = ReferenceEvaluator(proto).run(None, feeds)[0]
    executed = Oracle(ir.serde.deserialize_model(proto), feeds).run({})["w"]
    for found in (evaluated, executed):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=2**-22, atol=0)


def test_the_functions_shape_is_inferred() -> None:
    program = twins.after("tied", QuantizeWeights.to_bits(4, 32))
    assert len(twins.nodes(program, "DequantizeGroups")) == 14
    proto = _dequantize_model(6, 576, 9, ir.DataType.UINT4)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True).graph.output[0]
    assert [dim.dim_value for dim in inferred.type.tensor_type.shape.dim] == [6, 576]


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
