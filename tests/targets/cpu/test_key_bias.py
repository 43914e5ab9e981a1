"""Which layers' keys are cached without their bias, and that the twin's proof notices when attention forgets it."""

from dataclasses import replace

import numpy as np
import pytest

from tests.passes.relax import cases
from xamc.errors import InternalError
from xamc.ir.dialect import decode
from xamc.ir.relax_program import RelaxProgram
from xamc.passes.lowering.body import Body
from xamc.targets.cpu.key_bias import key_bias, rotated_biases
from xamc.targets.cpu.pipeline import relax_passes
from xamc.targets.cpu.twin_proof import TwinProof
from xamc.targets.kernels.attention_decode import Part
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.kv_pages import KvDtype


def _program(kind: str) -> RelaxProgram:
    program = cases.copy(cases.lowered(kind)[0])
    for relax_pass in relax_passes("int8"):
        relax_pass.run(program)
    return program


def _has_apart(program: RelaxProgram, kv_dtype: KvDtype = "int8") -> list[bool]:
    body = Body.of(program.module["main"])
    updates = [call for _, value in body.bindings if (call := decode(value)) and call.name == "rope_kv_write"]
    return [key_bias(program, body, update, kv_dtype) is not None for update in updates]


def test_biases_are_apart_in_8_bits_alone() -> None:
    program = _program("windowed")
    assert _has_apart(program) == [True, True]
    assert _has_apart(program, "float16") == [False, False]
    assert _has_apart(_program("tied")) == [False, False]  # it has none


def test_a_rotation_that_depends_on_the_length_keeps_them_in() -> None:
    program = _program("windowed")
    program.config = replace(program.config, rope=replace(program.config.rope, kind="dynamic"))
    assert _has_apart(program) == [False, False]


def test_what_caches_lack_is_the_bias_turned_like_a_key() -> None:
    """As complex numbers, against the bias that the twin's own projection has."""
    program = _program("windowed")
    config = program.config
    angles = np.arange(7)[:, None] * np.linspace(0.1, 1.0, config.head_dim // 2)
    found = rotated_biases(program, "int8", np.cos(angles), np.sin(angles))
    update = next(
        c for _, v in Body.of(program.module["main"]).bindings if (c := decode(v)) and c.name == "rope_kv_write"
    )
    name = key_bias(program, Body.of(program.module["main"]), update, "int8").name
    fused = program.weights[name].read_rows(0, program.weights[name].shape[0]).astype(np.float64)
    heads, kv_heads, d = config.num_heads, config.num_kv_heads, config.head_dim
    low, high = np.split(fused[heads * d : (heads + kv_heads) * d].reshape(kv_heads, 1, d), 2, axis=-1)
    turned = (low + 1j * high) * np.exp(1j * angles)
    assert len(found) == config.num_layers and found[0] is not None
    np.testing.assert_allclose(found[0], np.concatenate([turned.real, turned.imag], -1), rtol=1e-5, atol=1e-6)


def test_a_forgotten_bias_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Part, "emit_bias", lambda *_: None)
    proof = TwinProof(_program("windowed"), [], cases.lowered("windowed")[1], [])
    with pytest.raises(InternalError) as caught:
        proof.prove_kernels(Isa.host(), "int8", "float32")
    assert caught.value.code == "E1406"
