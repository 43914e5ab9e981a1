"""What the lowering refuses, what it shares, and which buffers its code reads."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from tests.vacc_artifacts import Variant, whole_program
from xamc.errors import InternalError, UnsupportedError
from xamc.ir.program import Program
from xamc.jobs.cache import StageCache
from xamc.model.bucket import Bucket
from xamc.passes.graph.shard.split import Shard
from xamc.targets.kernels.isa import Isa
from xamc.targets.vacc import bucket_code as generate
from xamc.targets.vacc.lower import lower_static
from xamc.targets.vacc.names import ISA
from xamc.targets.vacc.weights import plan_weights

DECODE = Bucket("decode", 16)


def _kernels(program: Program) -> list[str]:
    module, _ = lower_static(program, Isa.by_name(ISA))
    return sorted(v.name_hint for v, f in module.functions.items() if type(f).__name__ == "PrimFunc")


def test_layers_share_their_kernels() -> None:
    """The second layer brings no kernel but those that its window's mask needs."""
    same, windowed = (_kernels(whole_program(Variant(kind), DECODE)) for kind in ("tied", "windowed"))
    assert sum(name.startswith("linear_one") for name in same) == 4 + 1  # qo, kv, gate and up, down; lm_head
    assert sum(name.startswith("matmul") for name in same) == 2
    assert sum(name.startswith("copy") for name in same) == 0
    assert "sub_0" in windowed and "sub_0" not in same


def test_unknown_operators_are_listed_before_anything_is_done() -> None:
    program = whole_program(Variant(), DECODE)
    for node in program.model.graph:
        if node.op_type in ("Neg", "Softmax"):
            node.op_type = f"Strange{node.op_type}"
    with pytest.raises(UnsupportedError, match="E1421") as caught:
        lower_static(program, Isa.by_name(ISA))
    assert "StrangeNeg" in caught.value.message and "StrangeSoftmax" in caught.value.message
    assert any("model.layers.0.self_attn" in line for line in caught.value.details)


def test_a_use_that_is_not_covered_names_its_place() -> None:
    program = whole_program(Variant(), DECODE)
    softmax = next(node for node in program.model.graph if node.op_type == "Softmax")
    softmax.attributes["axis"] = ir.AttrInt64("axis", 1)
    with pytest.raises(UnsupportedError, match=r"E1421 Softmax at model.layers.0.self_attn: .*last"):
        lower_static(program, Isa.by_name(ISA))


def test_matrices_are_packed_and_the_rest_is_read_as_stored() -> None:
    tied = plan_weights(whole_program(Variant(), DECODE))
    assert tied.weights["model.embed_tokens.weight"].packing == "float16"  # it is lm_head, too
    assert tied.weights["model.norm.weight"].packing == "stored"
    assert tied.weights["rope_cos"].packing == "stored"
    plan = plan_weights(whole_program(Variant("windowed", int8=True), DECODE))
    assert plan.weights["model.embed_tokens.weight"].packing == "stored"
    name = "model.layers.0.mlp.up_proj.weight"
    assert plan.weights[f"{name}.codes"].sources == (f"{name}.codes", f"{name}.scales")
    assert f"{name}.scales" not in plan.weights
    assert len(plan.buffers) == sum(len(weight.buffers) for weight in plan.weights.values())
    for first, weight in zip(plan.first.values(), plan.weights.values(), strict=True):
        assert tuple(plan.buffers[first : first + len(weight.buffers)]) == weight.buffers


def test_a_bucket_is_generated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a child process the first time; then from the cache. All ranks have the same code."""
    cache = StageCache(tmp_path)
    ranks = Shard(2).split(whole_program(Variant(), DECODE))
    first = generate.generate_bucket(ranks, DECODE, cache, name="a model")
    assert first.code.name == "mod.so" and first.code.is_file()
    assert len(first.graphs) == len(first.params) == 2
    assert '"rank": 1' in first.graphs[1] and first.kernels == tuple(_kernels(ranks[0]))
    assert list(first.params[0]) == [str(value.name) for value in ranks[0].weight_inputs()]
    assert not np.array_equal(*(p["model.layers.0.mlp.up_proj.weight"].read_rows(0, 4) for p in first.params))
    monkeypatch.setattr("xamc.targets.child_stage.run_child", None)
    assert generate.generate_bucket(ranks, DECODE, cache, name="a model").code == first.code


def test_ranks_of_different_structure_are_refused(tmp_path: Path) -> None:
    ranks = [whole_program(Variant(), bucket) for bucket in (DECODE, Bucket("decode", 32))]
    with pytest.raises(InternalError, match="E1422"):
        generate.generate_bucket(ranks, DECODE, StageCache(tmp_path), name="a model")
