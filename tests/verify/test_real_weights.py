"""What the real weights do: values at every module against hooks on the whole model, and what a cache's type costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.checkpoints import write_tiny
from xamc.compiler.export.worker import eager_model
from xamc.compiler.frontends import open_checkpoint
from xamc.ir.tolerances import tolerance
from xamc.ir.weights.kv_scales import KvScales
from xamc.ir.weights.lazy import ArrayTensor, LazyTensor
from xamc.model.config import ModelConfig
from xamc.verify.cache_rounding import CacheRounding
from xamc.verify.kv_calibration import streamed_kv_ranges
from xamc.verify.oracle import materialize
from xamc.verify.real_weights import observe, observed

PROMPTS = [np.random.default_rng(seed).integers(0, 272, length) for seed, length in ((0, 40), (1, 7))]
EXACT = CacheRounding("float32")


def biased(tmp_path: Path, **biases: float) -> tuple[ModelConfig, dict[str, LazyTensor]]:
    """A Qwen2 whose heads have 64 elements, with weights of some size, and these biases in channel 5 of its keys."""
    changes = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}
    checkpoint = open_checkpoint(write_tiny(tmp_path / "model", "qwen2", **changes), "huggingface")
    generator, tensors = np.random.default_rng(3), {}
    for name, array in materialize(checkpoint.tensors).items():
        values = generator.normal(0, 0.08, array.shape).astype(np.float32)
        if array.ndim == 1 and not name.endswith("bias"):
            values += 1
        if name.endswith("k_proj.bias"):
            values[5] = biases.get("key", 0.0)
        tensors[name] = ArrayTensor(values)
    return checkpoint.config, tensors


@pytest.mark.parametrize("name", ["llama3", "internlm2_bias", "qwen2_window", "qwen3"])
def test_values_are_those_of_the_whole_model(name: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path, name), "huggingface")
    found = observed(checkpoint.config, checkpoint.tensors, PROMPTS[:1], EXACT)
    model, seen = eager_model(checkpoint.config, materialize(checkpoint.tensors)), {}
    for path, module in model.named_modules():
        module.register_forward_hook(lambda _, __, y, path=path: seen.update({path: y[0] if type(y) is tuple else y}))
    with torch.no_grad():
        model(input_ids=torch.from_numpy(PROMPTS[0][None]))
    mine = {magnitude.module: magnitude.largest for magnitude in found.magnitudes if magnitude.what == "output"}
    assert {"model.embed_tokens", "model.layers.1", "model.layers.0.mlp.down_proj", "lm_head"} < set(mine)
    for path, largest in mine.items():
        assert largest == pytest.approx(float(seen[path].abs().max()), rel=1e-4)
    whats = {magnitude.what for magnitude in found.magnitudes if magnitude.module == "model.layers.0.self_attn"}
    assert whats >= {"queries", "keys", "values", "scores"}
    assert (found.mean_kl, found.top1_agreement, found.positions) == (0.0, 1.0, 40)


def test_a_value_beyond_float16_is_found_where_it_is(tmp_path: Path) -> None:
    """The product of gate and up is down_proj's input, and no module's output."""
    config, tensors = biased(tmp_path)
    for part in ("gate_proj", "up_proj"):
        name = f"model.layers.1.mlp.{part}.weight"
        tensors[name] = ArrayTensor(tensors[name].read_rows(0, tensors[name].shape[0]) * 600)
    beyond = [e for e in observed(config, tensors, PROMPTS, EXACT).magnitudes if e.largest > 65504]
    assert (beyond[0].module, beyond[0].what) == ("model.layers.1.mlp.down_proj", "input")
    assert not any(e.module.startswith("model.layers.0") for e in beyond)


def test_what_an_int8_cache_costs_with_and_without_the_keys_biases(tmp_path: Path) -> None:
    config, tensors = biased(tmp_path, key=200.0)
    inside = observed(config, tensors, PROMPTS, CacheRounding("int8"))
    apart = observed(config, tensors, PROMPTS, CacheRounding("int8", unbiased_keys=True))
    assert inside.mean_kl > 5 * tolerance("cache_kl") and inside.top1_agreement < 0.8
    assert apart.mean_kl < tolerance("cache_kl") / 5 and apart.top1_agreement > 0.9
    plain = observed(*biased(tmp_path / "plain"), PROMPTS, CacheRounding("int8"))
    assert apart.mean_kl < 3 * plain.mean_kl


def test_types_cost_what_their_bits_say(tmp_path: Path) -> None:
    config, tensors = biased(tmp_path)
    costs = [observed(config, tensors, PROMPTS, CacheRounding(t)).mean_kl for t in ("float16", "bfloat16", "int8")]
    assert 0 < costs[0] < costs[1] < costs[2] < tolerance("cache_kl")


def test_constant_scales_cost_what_they_clamp(tmp_path: Path) -> None:
    config, tensors = biased(tmp_path)
    wide = KvScales.from_ranges(config, streamed_kv_ranges(config, tensors, PROMPTS, tmp_path))
    narrow = KvScales.from_ranges(config, streamed_kv_ranges(config, tensors, [np.zeros(9, np.int64)], tmp_path))
    costs = [observed(config, tensors, PROMPTS, CacheRounding("int8", scales)).mean_kl for scales in (wide, narrow)]
    assert costs[0] < tolerance("cache_kl") < costs[1]


def test_in_a_child_process(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "model", "llama"), "huggingface")
    (tmp_path / "scratch").mkdir()
    found = observe(
        checkpoint.config,
        checkpoint.tensors,
        PROMPTS,
        CacheRounding("bfloat16"),
        tmp_path / "scratch",
        tmp_path / "reproducers",
    )
    assert found.positions == 47 and found.mean_kl > 0 and found.magnitudes
