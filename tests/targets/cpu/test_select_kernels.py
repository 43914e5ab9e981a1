"""The compiled kernels against ONNX Runtime on the twins, in every storage form; and what has no kernel."""

from dataclasses import replace

import pytest

from tests.mutation import mutated
from tests.passes.relax import cases
from xamc.errors import InternalError, UnsupportedError
from xamc.ir.tolerances import tolerance
from xamc.passes.relax import RELAX_PASSES
from xamc.targets.cpu import select_kernels as module
from xamc.targets.cpu.pipeline import relax_passes
from xamc.targets.cpu.twin_proof import TwinProof, pack_twin
from xamc.targets.cpu.weight_plan import plan_weights
from xamc.targets.kernels import emit as E
from xamc.targets.kernels import linear
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.kv_pages import Pool
from xamc.targets.kernels.microkernel import bf16_arithmetic
from xamc.targets.kernels.threads import OWN_LAUNCH


def _proof(kind: str, stored: str, kv_dtype: str) -> TwinProof:
    program, calls = cases.lowered(kind, stored)
    program = cases.copy(program)
    for relax_pass in relax_passes(kv_dtype):
        relax_pass.run(program)
    return TwinProof(program, [], calls, [])


@pytest.mark.parametrize(
    "kind, stored, kv_dtype",
    [
        ("tied", "fp32", "float32"),
        ("windowed", "fp32", "float32"),
        ("tied", "w4", "float16"),
        ("windowed", "w8", "bfloat16"),
        ("windowed", "fp16", "float32"),
        ("windowed", "fp32", "int8"),
    ],
)
def test_kernels_answer_like_onnx_runtime(kind: str, stored: str, kv_dtype: str) -> None:
    result = _proof(kind, stored, kv_dtype).prove_kernels(Isa.host(), kv_dtype, "float32")
    assert result["executed"] and result["deviation"] <= result["bound"]
    assert result["tolerance"] == ("cpu_fp32" if kv_dtype == "float32" else "rounding_noise")


VNNI = replace(Isa.by_name("x86-64-v3"), emulate_vnni=True)
BF16 = replace(Isa.by_name("x86-64-v3"), emulate_bf16_dot=True)


@pytest.mark.parametrize(
    "stored, activations, isa", [("w4", "int8", VNNI), ("w8", "int8", VNNI), ("fp16", "bfloat16", BF16)]
)
def test_activations_that_are_rounded_are_held_to_what_noise_does(stored: str, activations: str, isa: Isa) -> None:
    result = _proof("tied", stored, "float32").prove_kernels(isa, "float32", activations)
    assert result["tolerance"] == "rounding_noise" and result["bound"] < 0.1
    assert tolerance("cpu_fp32") < result["deviation"] <= result["bound"]


@pytest.mark.parametrize(
    "stored, activations, isa",
    [
        ("fp32", "int8", VNNI),  # nothing to be multiplied in integers
        ("w8", "int16", VNNI),
        ("w8", "int8", Isa.by_name("x86-64-v3")),  # 16 bits where bytes have no instruction
        ("fp16", "float32", BF16),  # what is not asked to be rounded is not, whatever the level has
        ("fp16", "bfloat16", Isa.by_name("x86-64-v3")),  # and what is asked for is not where it has nothing for it
    ],
)
def test_activations_of_16_and_32_bits_are_held_to_the_usual_bound(stored: str, activations: str, isa: Isa) -> None:
    result = _proof("tied", stored, "float32").prove_kernels(isa, "float32", activations)
    assert result["tolerance"] == "cpu_fp32" and result["deviation"] <= tolerance("cpu_fp32")


def test_a_kernel_that_rounds_what_it_should_not_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 products in the place of float32 ones, with a cache that is rounded to float16 beside them."""
    monkeypatch.setattr(linear, "gemm_arithmetic", lambda isa, activations: bf16_arithmetic(isa))
    with pytest.raises(InternalError) as caught:
        _proof("tied", "fp16", "float16").prove_kernels(BF16, "float16", "float32")
    assert caught.value.code == "E1406" and "rounding_noise" in caught.value.message


def test_a_level_below_the_hosts_is_executed_too() -> None:
    assert _proof("tied", "fp32", "float32").prove_kernels(Isa.by_name("x86-64-v2"), "float32", "float32")["executed"]


def test_a_level_this_machine_lacks_is_compiled_and_not_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    lesser = Isa.by_name("x86-64-v2")
    monkeypatch.setattr(Isa, "host", staticmethod(lambda: lesser))
    result = _proof("tied", "fp32", "float32").prove_kernels(Isa.by_name("x86-64-v3"), "float32", "float32")
    assert result == {"executed": False, "reason": "this machine cannot execute x86-64-v3"}


def test_each_kernel_is_generated_once_for_all_layers_and_functions() -> None:
    proof = _proof("tied", "fp32", "float32")
    selected = module.select_kernels(proof.program, plan_weights(proof.program), Isa.host(), "float32", "float32")
    built = selected.module
    kernels = [v.name_hint for v, f in built.functions.items() if type(f).__name__ == "PrimFunc"]
    # 5 shapes of linear layers, attention, one each of 7 others, and the decode step with its own kernels
    assert len(kernels) == len(set(kernels)) <= 15
    # embedding, qkv, attention, o, gate and up, down, head
    assert selected.step is not None and len(selected.step.kernels) == len(set(selected.step.kernels)) == 7
    script = built.script().replace(f'"{OWN_LAUNCH}"', "")
    assert '"xamc.' not in script and all(f"def {name}(" in script for name in module.FUNCTIONS)


def test_without_a_pass_the_operator_left_over_is_named() -> None:
    program = cases.copy(cases.lowered("tied")[0])
    for relax_pass in relax_passes("float32"):
        if relax_pass.name != "rope_cache":
            relax_pass.run(program)
    with pytest.raises(UnsupportedError) as caught:
        module.select_kernels(program, plan_weights(program), Isa.host(), "float32", "float32")
    assert caught.value.code == "E1403" and "rotary_embedding" in caught.value.message


def test_a_forgotten_window_is_noticed() -> None:
    old = 'heads, window, scale = call.attributes["heads"], call.attributes["window"]'
    wrong = mutated(module, old, 'heads, window, scale = call.attributes["heads"], None')
    proof = _proof("windowed", "fp32", "float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xamc.targets.cpu.twin_proof.select_kernels", wrong.select_kernels)
        with pytest.raises(InternalError) as caught:
            proof.prove_kernels(Isa.host(), "float32", "float32")
    assert caught.value.code == "E1406"


@pytest.mark.parametrize("wrong", ["first block", "first row"])
def test_a_wrong_entry_of_the_block_table_is_noticed(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Pool.place

    def misplaced(self: Pool, i: E.Expr, position: E.Expr) -> tuple[E.Expr, E.Expr]:
        return place(self, i, position % self.block) if wrong == "first block" else place(self, E.i64(0), position)

    monkeypatch.setattr(Pool, "place", misplaced)
    with pytest.raises(InternalError) as caught:
        _proof("tied", "fp32", "float32").prove_kernels(Isa.host(), "float32", "float32")
    assert caught.value.code == "E1406"


def test_the_scale_of_another_head_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = Pool.scale
    monkeypatch.setattr(Pool, "scale", lambda self, place, head, positions=1: scale(self, place, E.i64(0), positions))
    with pytest.raises(InternalError) as caught:
        _proof("windowed", "fp32", "int8").prove_kernels(Isa.host(), "int8", "float32")
    assert caught.value.code == "E1406"


def test_the_names_known_without_tvm_are_the_passes() -> None:
    assert tuple(relax_pass.name for relax_pass in relax_passes("float16")) == RELAX_PASSES


def test_a_wrong_packing_order_is_noticed() -> None:
    proof = _proof("tied", "fp32", "float32")
    plan = plan_weights(proof.program)
    swapped = [w for w in plan.weights if w.layout is None]
    names = {swapped[0].sources: swapped[1].sources, swapped[1].sources: swapped[0].sources}
    plan.weights = [replace(w, sources=names.get(w.sources, w.sources)) for w in plan.weights]
    packed = pack_twin(plan, proof.program)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xamc.targets.cpu.twin_proof.pack_twin", lambda *_: packed)
        with pytest.raises(InternalError):
            proof.prove_kernels(Isa.host(), "float32", "float32")
