from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import DECODE, PASSES, PassCase, golden_of
from xamc.errors import InternalError
from xamc.ir.tolerances import tolerance
from xamc.ir.weights.kv_scales import past_names, scales_name
from xamc.ir.weights.lazy import ArrayTensor
from xamc.model.config import RopeConfig
from xamc.passes.graph import key_bias_apart
from xamc.passes.graph.key_bias_apart import KeyBiasApart, rotated_bias
from xamc.passes.graph.kv_int8 import KvInt8
from xamc.targets.buckets import common_passes
from xamc.targets.vacc.passes import bucket_passes
from xamc.targets.vacc.passes import passes as vacc_passes
from xamc.targets.vacc.request import VaccRequest
from xamc.verify.kv_calibration import scales_of_cases
from xamc.verify.proof import prove
from xamc.verify.rank_proof import prove_split


def test_golden() -> None:
    check_golden("passes/key_bias_apart.txt", golden_of("key_bias_apart", key_bias_apart))


@pytest.mark.parametrize("case", PASSES["key_bias_apart"].setups)
def test_attention_reads_what_it_read_before(case: PassCase) -> None:
    program, cases = twins.twin("windowed")
    proof = prove([*case.before, KeyBiasApart()], program, cases).require().passes[-1]
    assert proof.report.matched == {"layer": 2} and 0 < proof.worst <= tolerance("reassociated")


def test_a_rotated_bias_is_what_it_adds_to_a_key() -> None:
    """Against complex numbers turned by the textbook's angles."""
    config = twins.config("tied")
    bias = np.random.default_rng(0).normal(0, 1, config.num_kv_heads * config.head_dim).astype(np.float32)
    positions = np.array([0, 5, 11])
    angles = positions[:, None] / 10000.0 ** (np.arange(0, config.head_dim, 2) / config.head_dim)
    low, high = np.split(bias.astype(np.float64).reshape(-1, 1, config.head_dim), 2, axis=-1)
    turned = (low + 1j * high) * np.exp(1j * angles)
    expected = np.concatenate([turned.real, turned.imag], -1)
    np.testing.assert_allclose(rotated_bias(bias, config, positions), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["tied", "dynamic"])
def test_models_without_such_biases_stay_as_they_are(kind: str) -> None:
    """No bias at all; and a rotation that depends on the length that was reached."""
    program = (
        twins.after("tied") if kind == "tied" else twins.family("qwen2", RopeConfig("dynamic", 10000.0, factor=2.0))
    )
    before = ir.to_proto(program.model)
    report = KeyBiasApart().run(program)
    assert report.total == 0 and len(report.skipped) == 1
    assert ir.to_proto(program.model) == before


def test_a_graph_of_another_form_is_refused() -> None:
    program, _ = twins.twin("windowed")
    with pytest.raises(InternalError) as caught:
        KeyBiasApart().run(program)
    assert caught.value.code == "E1329"


def test_a_large_bias_widens_no_scale() -> None:
    """A bias of 200 in a channel that turns fast costs keys that hold it nearly all codes, and those without none."""
    program, cases = twins.twin("windowed")
    name, config = "model.layers.0.self_attn.k_proj.bias", program.config
    small = program.weights[name].read_rows(0, 32)
    large = small + np.where(np.arange(32) == 0, np.float32(200), np.float32(0))
    apart = scales_of_cases(config, cases, program.weights)
    moved = []
    for case in cases:
        keys = case.fetches["present_key.0"]
        added = (rotated_bias(bias, config, np.arange(keys.shape[2])) for bias in (large, small))
        moved.append(replace(case, fetches={**case.fetches, "present_key.0": keys + next(added) - next(added)}))
    key = scales_name(past_names(config)[0])
    assert scales_of_cases(config, moved).tensors[key].max() > 20 * apart.tensors[key].max()
    program.weights[name] = ArrayTensor(large)
    without = scales_of_cases(config, moved, program.weights)
    np.testing.assert_allclose(without.tensors[key], apart.tensors[key], rtol=1e-3)
    assert without.unbiased_keys


def test_proven_with_codes() -> None:
    """As VACC's decode graph has them: all passes, then the biases apart, then codes."""
    program, cases = twins.twin(twins.THREE_GROUPS)
    scales = scales_of_cases(program.config, cases, program.weights)
    passes = [*common_passes(), *bucket_passes(DECODE), KeyBiasApart(), KvInt8(scales)]
    proof = prove(passes, program, cases).require().passes[-1]
    assert proof.report.matched == {"past": 4, "present": 4} and 0 < proof.cost <= tolerance("kv8_twin")


@pytest.mark.parametrize("tp", [2, 4])
def test_ranks_have_the_biases_of_their_heads(tp: int) -> None:
    """Two KV heads, one per rank, and each on two ranks."""
    program, cases = twins.twin("windowed")
    passes = vacc_passes(VaccRequest("float16", None, "int8", buckets=(DECODE,), unbiased_keys=True, tp=tp))
    scales = scales_of_cases(program.config, cases, program.weights)
    report = prove([*passes.common, *passes.of_bucket(DECODE, DECODE.length, scales)], program, cases).require()
    assert passes.split is not None and prove_split(passes.split, program, report.cases).ok
