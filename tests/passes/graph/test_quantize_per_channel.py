import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import PASSES, golden_text
from xamc.errors import InternalError
from xamc.ir.onnx_graph import add_function, new_node
from xamc.ir.tolerances import tolerance
from xamc.ir.weights.lazy import ArrayTensor
from xamc.passes.graph import quantize_per_channel
from xamc.passes.graph.quantize_per_channel import QuantizePerChannel, quantized_linear_function
from xamc.passes.graph.weight_storage import WeightStorage
from xamc.verify.oracle import Oracle, materialize
from xamc.verify.proof import prove


def test_golden() -> None:
    check_golden(
        "passes/quantize_per_channel.txt",
        golden_text("quantize_per_channel", PASSES["quantize_per_channel"].make(quantize_per_channel)),
    )


@pytest.mark.parametrize("kind", twins.KINDS)
def test_proven_and_only_linear_layers_are_quantized(kind: str) -> None:
    program, cases = twins.twin(kind)
    proof = prove([QuantizePerChannel()], program, cases).require().passes[-1]
    assert proof.report.matched == {"linear": 14}
    left = {miss.place: miss.reason for miss in proof.report.skipped}
    assert left["model.embed_tokens.weight"] == left.get("lm_head.weight", "the embedding or lm_head")
    assert left["model.norm.weight"] == "a norm weight or a bias"
    assert {name: t.dtype for name, t in program.weights.items() if "down_proj" in name} == {
        f"model.layers.{i}.mlp.down_proj.weight.{part}": dtype
        for i in range(2)
        for part, dtype in (("codes", "int8"), ("scales", "float16"))
    }
    if kind == "windowed":
        # q, k and v have biases here: they are added outside
        product = twins.nodes(program, "QuantizedLinearPerChannel")[0]
        assert [node.op_type for node, _ in product.outputs[0].uses()] == ["Add"]
    assert 0 < proof.cost <= tolerance("w8_per_channel_twin")


def test_codes_and_scales_are_the_vendors_definition() -> None:
    """scale = max |W[o, :]| / 127 and q = round(W / scale), computed here in float64."""
    program, _ = twins.twin("tied")
    name = "model.layers.0.self_attn.q_proj.weight"
    weight = materialize(program.weights)[name].astype(np.float64)
    weight[3] = 0.0
    weight[4] *= 1e-6
    program.weights[name] = ArrayTensor(weight.astype(np.float32))
    QuantizePerChannel().run(program)
    stored = materialize({part: program.weights[f"{name}.{part}"] for part in ("codes", "scales")})
    codes, scales = stored["codes"], stored["scales"].astype(np.float64)
    assert codes.dtype == np.int8 and stored["scales"].dtype == np.float16 and scales.shape == (96,)
    largest = np.abs(weight).max(axis=1)
    normal = largest > 1e-3
    ratio = scales[normal] / (largest[normal] / 127)
    assert ratio.min() >= 1 and ratio.max() <= 1 + 2**-10
    np.testing.assert_array_equal(codes, np.rint(weight.astype(np.float32) / scales.astype(np.float32)[:, None]))
    assert np.abs(codes.astype(int)).max() == 127 and scales[3] == 1 and not codes[3].any()
    # a row too small for a float16 scale of its own: still within half a step of the smallest
    assert scales[4] == 2**-24 and codes[4].any()


def test_a_scale_is_read_in_blocks_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scales are a thousandth of their matrix, which must not be read whole for them."""
    from xamc.ir.weights import lazy, quantize

    blocks: list[int] = []

    class Watched(ArrayTensor):
        def read_rows(self, start: int, stop: int) -> lazy.Array:
            blocks.append(stop - start)
            return super().read_rows(start, stop)

    monkeypatch.setattr(quantize, "row_blocks", lambda tensor: lazy.row_blocks(tensor, limit=40 * 64 * 4))
    source = Watched(twins.seeded((100, 64)))
    matrix = quantize.QuantizedMatrix(source, quantize.RoundToNearest(8, None), "w")
    scales = quantize.RowScales(matrix).read_rows(0, 100)
    assert blocks == [40, 40, 20]
    np.testing.assert_array_equal(scales, matrix.scales.read_rows(0, 100)[:, 0])
    np.testing.assert_array_equal(quantize.RowScales(matrix).read_rows(30, 90), scales[30:90])


def test_the_function_is_its_definition() -> None:
    rng = np.random.default_rng(7)
    codes = rng.integers(-127, 128, (5, 48), dtype=np.int8)
    scales = rng.uniform(0.001, 0.1, 5).astype(np.float16)
    x = rng.standard_normal((2, 3, 48)).astype(np.float32)
    expected = x.astype(np.float64) @ (codes * scales.astype(np.float64)[:, None]).T
    inputs = [
        ir.val("x", dtype=ir.DataType.FLOAT, shape=x.shape),
        ir.val("codes", dtype=ir.DataType.INT8, shape=codes.shape),
        ir.val("scales", dtype=ir.DataType.FLOAT16, shape=scales.shape),
    ]
    call = new_node("QuantizedLinearPerChannel", inputs, ["y"], domain="Vastai")
    call.outputs[0].type, call.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([2, 3, 5])
    model = ir.Model(ir.Graph(inputs, call.outputs, nodes=[call], opset_imports={"": 24}, name="g"), ir_version=11)
    add_function(model, quantized_linear_function())
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto, full_check=True)
    feeds = {"x": x, "codes": codes, "scales": scales}
    for found in (ReferenceEvaluator(proto).run(None, feeds)[0], Oracle(model, {}).run(feeds)["y"]):
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance("kernel_sums") * np.abs(expected).max() * 10)


def test_wrong_codes_are_named() -> None:
    program, _ = twins.twin("tied")
    before = materialize(program.weights)
    graph_pass = QuantizePerChannel()
    graph_pass.run(program)
    after = materialize(program.weights)
    graph_pass.decoded_weights(before, after)
    name = "model.layers.1.self_attn.v_proj.weight"
    after[f"{name}.codes"][3, 40] += 2
    with pytest.raises(InternalError) as error:
        graph_pass.decoded_weights(before, after)
    assert error.value.code == "E1308" and f"{name} row 3" in error.value.message


def test_what_is_left_becomes_float16_with_its_vectors() -> None:
    """The whole of a VACC graph's weights: int8 linear layers, float16 everything else."""
    program, cases = twins.twin("windowed")
    prove([QuantizePerChannel(), WeightStorage("float16", vectors=True)], program, cases).require()
    dtypes = {name: tensor.dtype for name, tensor in program.weights.items()}
    assert {dtype for name, dtype in dtypes.items() if not name.endswith(".codes")} == {"float16"}
    assert "model.layers.0.self_attn.q_proj.bias" in dtypes and "model.norm.weight" in dtypes


def test_a_weight_that_is_used_otherwise_is_left_alone() -> None:
    program, _ = twins.twin("tied")
    name = "model.layers.0.mlp.up_proj.weight"
    (transpose,) = (node for node in twins.nodes(program, "Transpose") if node.inputs[0].name == name)
    transpose.attributes["perm"] = ir.AttrInt64s("perm", [0, 1])
    report = QuantizePerChannel().run(program)
    assert report.matched == {"linear": 13}
    assert "not by the transpose" in {miss.place: miss.reason for miss in report.skipped}[name]
