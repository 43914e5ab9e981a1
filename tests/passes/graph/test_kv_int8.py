from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import PASSES, golden_text, twin_kv_scales
from xamc.errors import InternalError
from xamc.ir.onnx_graph import add_function, new_node
from xamc.ir.program import Program
from xamc.ir.text import program_text
from xamc.ir.tolerances import tolerance
from xamc.ir.weights.kv_scales import KvScales, past_names
from xamc.model.bucket import Bucket
from xamc.model.kv_cache import present_key, present_value
from xamc.passes.graph import kv_int8
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.kv_int8 import KvInt8, dequantize_kv_function, quantize_kv_function
from xamc.passes.graph.quantize_per_channel import QuantizePerChannel
from xamc.passes.graph.weight_storage import WeightStorage
from xamc.targets.vacc.passes import bucket_passes
from xamc.verify.kv_calibration import scales_of_cases
from xamc.verify.metrics import output_error, relative_error
from xamc.verify.oracle import Oracle, materialize, oracle_of
from xamc.verify.proof import prove
from xamc.verify.scenario import TWIN_DECODE_LENGTH, TWIN_PREFILL_LENGTH


def test_golden() -> None:
    check_golden("passes/kv_int8.txt", golden_text("kv_int8", PASSES["kv_int8"].make(kv_int8)))


@pytest.mark.parametrize("kind", twins.KINDS)
def test_proven_after_int8_weights(kind: str) -> None:
    program, cases = twins.twin(kind)
    scales = scales_of_cases(program.config, cases)
    passes = [Cleanup(), QuantizePerChannel(), WeightStorage("float16", vectors=True), KvInt8(scales)]
    proof = prove(passes, program, cases).require().passes[-1]
    assert proof.report.matched == {"past": 4, "present": 4}
    # the same elementwise operations on both sides: not even the last bit differs
    assert proof.worst == 0
    assert 0 < proof.cost <= tolerance("kv8_twin")
    outputs = {value.name: value.dtype for value in program.model.graph.outputs}
    assert outputs == {"logits": ir.DataType.FLOAT} | {
        name(i): ir.DataType.INT8 for i in range(2) for name in (present_key, present_value)
    }


def test_steps_that_pass_codes_on_stay_near_the_unquantized_model() -> None:
    """A prefill and three decode steps, each fed with the codes of the last: independent of how a proof adapts."""
    program, cases = twins.twin("tied")
    KvInt8(scales_of_cases(program.config, cases)).run(program)
    oracle = oracle_of(program)
    row = [case for case in cases if case.run == "row1"]
    past = {name: array.astype(np.int8) for name, array in row[0].feeds.items() if name.startswith("past_")}
    for case in row:
        result = oracle.run({**case.feeds, **past})
        past = {name.replace("present", "past"): array for name, array in result.items() if name != "logits"}
        assert {array.dtype for array in past.values()} == {np.dtype(np.int8)}
        error = relative_error(result["logits"], case.fetches["logits"])
        # the prefill reads no cache
        assert error <= tolerance("kv8_twin" if case.step else "export_fp32"), case.name
        assert case.step == 0 or error > tolerance("export_fp32"), case.name


def test_codes_that_come_in_go_out_unchanged() -> None:
    program, cases = twins.twin("windowed")
    graph_pass = KvInt8(scales_of_cases(program.config, cases))
    graph_pass.run(program)
    case = next(case for case in cases if case.name == "row0, decode 2")
    feeds, expected = graph_pass.adapt(case.feeds, case.fetches)
    result = oracle_of(program).run(feeds)
    for past in ("past_key.0", "past_value.1"):
        present = past.replace("past", "present")
        np.testing.assert_array_equal(result[present][:, :, :-1], feeds[past])
        assert output_error(result[present], expected[present]) <= 1 / 127


def _call(op: str, inputs: dict[str, np.ndarray], function: ir.Function, dtype: ir.DataType) -> ir.Model:
    """A graph that only calls the function."""
    values = [
        ir.val(name, dtype=ir.DataType.from_numpy(array.dtype), shape=array.shape) for name, array in inputs.items()
    ]
    call = new_node(op, values, ["y"], domain="xamc")
    call.outputs[0].type, call.outputs[0].shape = ir.TensorType(dtype), values[0].shape
    model = ir.Model(ir.Graph(values, call.outputs, nodes=[call], opset_imports={"": 24}, name="g"), ir_version=11)
    add_function(model, function)
    onnx.checker.check_model(ir.serde.serialize_model(model), full_check=True)
    return model


def _results(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    proto = ir.serde.serialize_model(model)
    return [ReferenceEvaluator(proto).run(None, feeds)[0], Oracle(model, {}).run(feeds)["y"]]


def test_quantize_is_its_definition() -> None:
    """Ties to even and both ends, against numbers written down by hand."""
    x = np.array([-1000.0, -127.0, -2.5, -1.5, -0.5, 0.0, 0.5, 1.5, 2.5, 126.6, 1000.0], np.float32)
    expected = np.array([-127, -127, -2, -2, 0, 0, 0, 2, 2, 127, 127], np.int8)
    # two heads of one channel: steps of 1 around 0, and of 0.25 around 40
    feeds = {
        "x": np.stack([x, x * 0.25 + 40])[None, :, :, None],
        "scales": np.array([[1.0], [0.25]], np.float32),
        "zeros": np.array([[0.0], [40.0]], np.float32),
    }
    model = _call("QuantizeKv", feeds, quantize_kv_function(), ir.DataType.INT8)
    for found in _results(model, feeds):
        assert found.dtype == np.int8
        np.testing.assert_array_equal(found[0, :, :, 0], [expected, expected])


def test_dequantize_is_its_definition() -> None:
    rng = np.random.default_rng(3)
    feeds = {
        "codes": rng.integers(-127, 128, (1, 2, 5, 4), dtype=np.int8),
        "scales": rng.uniform(0.01, 0.1, (2, 4)).astype(np.float32),
        "zeros": rng.uniform(-3, 3, (2, 4)).astype(np.float32),
    }
    model = _call("DequantizeKv", feeds, dequantize_kv_function(), ir.DataType.FLOAT)
    for found in _results(model, feeds):
        for head in range(2):
            for channel in range(4):
                scale, zero = float(feeds["scales"][head, channel]), float(feeds["zeros"][head, channel])
                np.testing.assert_allclose(
                    found[0, head, :, channel], feeds["codes"][0, head, :, channel] * scale + zero, atol=2e-6
                )


def test_scales_of_another_model_are_refused() -> None:
    program, _ = twins.twin("tied")
    fewer = KvScales(replace(program.config, num_layers=1), twin_kv_scales().tensors)
    fewer = replace(fewer, tensors={name: array for name, array in fewer.tensors.items() if ".0." in name})
    with pytest.raises(InternalError) as error:
        KvInt8(fewer).run(program)
    assert error.value.code == "E1160" and "past_key.1" in error.value.message
    other = Program(program.model, program.weights, replace(program.config, num_kv_heads=3))
    with pytest.raises(InternalError) as error:
        KvInt8(twin_kv_scales()).run(other)
    assert error.value.code == "E1160" and "[3, 16]" in error.value.message


def test_scales_are_weights_in_float32() -> None:
    program, _ = twins.twin("tied")
    scales = twin_kv_scales()
    KvInt8(scales).run(program)
    stored = materialize({name: t for name, t in program.weights.items() if name.startswith("past_")})
    assert sorted(stored) == sorted(scales.tensors) and len(stored) == 8
    for name, array in stored.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, scales.tensors[name])


def test_a_graph_without_a_cache_stays_as_it_is() -> None:
    """An embedding model's prefill gives hidden states only."""
    program, _ = twins.twin("tied")
    graph = program.model.graph
    for value in [value for value in graph.outputs if value.name != "logits"]:
        graph.outputs.remove(value)
    before = program_text(program)
    report = KvInt8(twin_kv_scales()).run(program)
    assert program_text(program) == before and report.matched == {} and len(report.skipped) == 4
    assert not any(name.startswith("past_") for name in program.weights)


@pytest.mark.parametrize("kind", ["prefill", "decode"])
def test_static_graphs_give_and_take_codes(kind: str) -> None:
    """The graphs a card runs: a prefill without a past, and a decode step that returns its whole cache."""
    program, cases = twins.twin("windowed")
    bucket = Bucket("prefill", TWIN_PREFILL_LENGTH) if kind == "prefill" else Bucket("decode", TWIN_DECODE_LENGTH)
    scales = scales_of_cases(program.config, cases)
    static = bucket_passes(bucket, TWIN_DECODE_LENGTH)
    proof = prove([Cleanup(), *static, KvInt8(scales)], program, cases).require().passes[-1]
    past = {} if kind == "prefill" else {"past": 4}
    assert proof.report.matched == {**past, "present": 4} and (proof.cost > 0) == bool(past)
    graph = program.model.graph
    codes = {
        value.name: list(value.shape) for value in (*graph.inputs, *graph.outputs) if value.dtype == ir.DataType.INT8
    }
    expected = {name(i): [1, 2, bucket.length, 16] for i in range(2) for name in (present_key, present_value)}
    if past:
        expected |= {name: [1, 2, bucket.length - 1, 16] for name in past_names(program.config)}
    assert codes == expected
