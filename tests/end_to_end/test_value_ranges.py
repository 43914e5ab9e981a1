"""Values that 8 or 16 bits do not hold: large key biases in an int8 cache, keys and activations beyond float16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tests.checkpoints import write_tiny
from tests.end_to_end.models import F32, Fed, Workshop, answers, prompts, spec
from xamc.compiler.frontends import open_checkpoint
from xamc.compiler.pipeline import compile_spec
from xamc.errors import UnsupportedError
from xamc.ir.tolerances import tolerance
from xamc.runtime import load
from xamc.verify.metrics import kl_divergence, top1_agreement
from xamc.verify.streamed_reference import streamed_logits

Edit = Callable[[str, F32], F32]


def checkpoint(folder: Path, edit: Edit) -> Path:
    """A Qwen2 with heads of 64 elements and weights of some size, which `edit` changes by name."""
    write_tiny(folder, "qwen2", hidden_size=128, num_attention_heads=2, num_key_value_heads=1, rope_theta=10000.0)
    file, generator = folder / "model.safetensors", np.random.default_rng(3)
    tensors = {}
    for name, array in safetensors.numpy.load_file(file).items():
        values = generator.normal(0, 0.08, array.shape).astype(np.float32)
        if array.ndim == 1 and not name.endswith("bias"):
            values += 1
        tensors[name] = np.ascontiguousarray(edit(name, values))
    safetensors.numpy.save_file(tensors, file, {"format": "pt"})
    return folder


def channel(name: str, number: int, value: float) -> Edit:
    """Sets one element of every bias of that name."""

    def edit(tensor: str, values: F32) -> F32:
        if tensor.endswith(name):
            values[number] = value
        return values

    return edit


def test_an_int8_cache_holds_beside_a_large_key_bias(workshop: Workshop, tmp_path: Path) -> None:
    """In the prompt and in the steps behind it; the compile says what the cache costs on these weights."""
    folder = checkpoint(tmp_path / "biased", channel("k_proj.bias", 5, 200.0))
    sections: dict[str, Any] = {"runtime": {"kv_dtype": "int8"}, "verify": {"passes": "each"}}
    compiled = workshop.compiled(folder, "biased-int8", **sections)
    rows, following = prompts((60, 9), 5)
    model = open_checkpoint(folder, "huggingface")
    tokens = [np.concatenate(pair) for pair in zip(rows, following, strict=True)]
    expected = streamed_logits(model.config, model.tensors, tokens)
    found = answers(workshop.model(folder, "biased-int8", **sections), rows, following)
    kl = np.concatenate([kl_divergence(want, mine) for want, mine in zip(expected, found, strict=True)])
    assert kl.mean() <= tolerance("cache_kl") / 5
    assert min(top1_agreement(want, mine) for want, mine in zip(expected, found, strict=True)) > 0.9
    cost = compiled.report["values"]["kv_cache"]
    assert 0 < cost["mean_kl"] <= tolerance("cache_kl") / 5 and not any(
        "costs" in text for text in compiled.report["warnings"]
    )


def test_vaccs_int8_cache_holds_beside_a_large_key_bias(tmp_path: Path) -> None:
    """Decoding in the simulator, where every step reads codes; all passes are proven on the twin."""
    folder = checkpoint(tmp_path / "biased", channel("k_proj.bias", 5, 200.0))
    document = spec(folder, backend={"type": "tvm_vacc", "dtype": "fp16"}, verify={"passes": "each"})
    document["frontend"] |= {"shape": {"input_ids": [[16], [48]]}, "quantize": {"type": "w16kv8"}}
    compiled = compile_spec(document)
    (row,), following = prompts((16,), 28)
    config = open_checkpoint(folder, "huggingface")
    (expected,) = streamed_logits(config.config, config.tensors, [np.concatenate([row, following[0]])])
    fed = Fed(load(compiled.path, threads=1), [row])
    fed.prompts()
    found = np.concatenate([fed.next(following[:, step]) for step in range(28)])[:, : config.config.vocab_size]
    assert kl_divergence(expected[16:], found).mean() <= tolerance("cache_kl")
    assert top1_agreement(expected[16:], found) > 0.85
    assert compiled.report["values"]["kv_cache"]["mean_kl"] <= tolerance("cache_kl") / 5


def test_a_cache_that_costs_more_than_its_bound_is_announced(tmp_path: Path) -> None:
    """Dynamic scaling keeps the bias in the cache. Python shows the warning too."""
    folder = checkpoint(tmp_path / "dynamic", channel("k_proj.bias", 5, 200.0))
    config = folder / "config.json"
    config.write_text(config.read_text().replace("{", '{"rope_scaling": {"rope_type": "dynamic", "factor": 2.0},', 1))
    document = spec(folder, runtime={"kv_dtype": "int8"})
    with pytest.warns(UserWarning, match=r"int8 costs .* nats.*runtime.kv_dtype"):
        report = compile_spec(document).report
    assert report["values"]["kv_cache"]["mean_kl"] > tolerance("cache_kl")
    assert any("int8 costs" in warning for warning in report["warnings"])


def small_queries(name: str, values: F32) -> F32:
    """Keys of 1e5 whose scores stay small."""
    if "q_proj" in name:
        return values * np.float32(1e-3)
    return channel("k_proj.bias", 3, 1e5)(name, values)


def test_keys_beyond_float16_are_held_in_bf16(workshop: Workshop, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "wide", small_queries)
    compiled = workshop.compiled(folder, "wide-bf16", backend={"type": "tvm_cpu", "dtype": "bf16"})
    assert compiled.manifest.kv.dtype == "bfloat16"
    rows, following = prompts((30,), 3)
    model = open_checkpoint(folder, "huggingface")
    (expected,) = streamed_logits(model.config, model.tensors, [np.concatenate([rows[0], following[0]])])
    (found,) = answers(
        workshop.model(folder, "wide-bf16", backend={"type": "tvm_cpu", "dtype": "bf16"}), rows, following
    )
    assert np.isfinite(found).all() and kl_divergence(expected, found).mean() < 0.01


def test_keys_beyond_float16_are_refused_with_layer_and_remedy(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "wide", small_queries)
    with pytest.raises(UnsupportedError) as caught:
        compile_spec(spec(folder, backend={"type": "tvm_cpu", "dtype": "fp16"}))
    assert caught.value.code == "E1315"
    assert "keys of model.layers.0.self_attn" in caught.value.message and "runtime.kv_dtype: bf16" in caught.value.fix


def large_products(name: str, values: F32) -> F32:
    """Gate times up of the second layer leaves float16's range, and no weight does."""
    return values * np.float32(600) if "layers.1.mlp.gate" in name or "layers.1.mlp.up" in name else values


@pytest.mark.parametrize("target", ["tvm_ascend", "tvm_vacc"])
def test_activations_beyond_float16_are_refused_with_layer_and_remedy(target: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "large", large_products)
    document = spec(folder, backend={"type": target, "dtype": "fp16"})
    document["frontend"]["shape"] = {"input_ids": [[16], [32]]}
    with pytest.raises(UnsupportedError) as caught:
        compile_spec(document)
    assert caught.value.code == "E1315" and caught.value.exit_code == 3
    assert "input of model.layers.1.mlp.down_proj" in caught.value.message and "tvm_cpu" in caught.value.fix


def test_activations_beyond_float16_are_no_matter_on_the_cpu(workshop: Workshop, tmp_path: Path) -> None:
    """It computes in float32, whatever weights and cache are stored as."""
    folder = checkpoint(tmp_path / "large", large_products)
    rows, following = prompts((20,), 2)
    (found,) = answers(workshop.model(folder, "large", backend={"type": "tvm_cpu", "dtype": "fp16"}), rows, following)
    assert np.isfinite(found).all()
