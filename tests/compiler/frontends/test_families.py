"""Every family's mapping against a reference that knows nothing of it: transformers, or the published description."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from tests.checkpoints import CONFIGS, write_tiny
from tests.compiler.frontends import published
from xamc.compiler.frontends import Checkpoint, open_checkpoint
from xamc.compiler.frontends.config_reader import ConfigReader
from xamc.compiler.frontends.families import find_family
from xamc.ir.tolerances import tolerance
from xamc.ir.weights.lazy import RowRanges
from xamc.model.config import ModelConfig

FAMILY_MAPPING = tolerance("family_mapping")
IDS = torch.from_numpy(np.random.default_rng(5).integers(3, 259, size=(2, 24)))
LONG_IDS = torch.from_numpy(np.random.default_rng(6).integers(3, 259, size=(2, 100)))


def mapped_model(checkpoint: Checkpoint) -> Any:
    """The transformers model that the exporter builds, filled from the mapped tensors."""
    cls = getattr(transformers, checkpoint.config.architecture)
    model = cls(cls.config_class(**checkpoint.config.hf_config)).eval()
    state = {name: torch.from_numpy(t.read_rows(0, t.shape[0])) for name, t in checkpoint.tensors.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = ["lm_head.weight"] if checkpoint.config.tie_word_embeddings else []
    assert (missing, unexpected) == (tied, [])
    return model


@torch.no_grad()
def mapped_logits(checkpoint: Checkpoint, ids: torch.Tensor) -> torch.Tensor:
    return mapped_model(checkpoint)(ids).logits


def stored(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())


def distance(found: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest difference relative to the largest logit."""
    return float((found - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize("name", ["llama", "llama3", "llama_bias", "qwen2", "qwen2_window", "qwen3", "mistral"])
def test_transformers_families_match_transformers_own_loading(name: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path, name)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = reference(IDS).logits
    assert distance(mapped_logits(open_checkpoint(folder, "huggingface"), IDS), expected) <= FAMILY_MAPPING


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral"])
def test_checkpoints_saved_by_transformers_open(name: str, tmp_path: Path) -> None:
    """save_pretrained writes the spelling of transformers 5 (rope_parameters, dtype)."""
    model = transformers.AutoModelForCausalLM.from_pretrained(write_tiny(tmp_path / "in", name), dtype=torch.float32)
    out = tmp_path / "out"
    model.save_pretrained(out)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (out / file).write_bytes((tmp_path / "in" / file).read_bytes())
    with torch.no_grad():
        expected = model.eval()(IDS).logits
    assert distance(mapped_logits(open_checkpoint(out, "huggingface"), IDS), expected) <= FAMILY_MAPPING


@pytest.mark.parametrize("ids", [IDS, LONG_IDS], ids=["within", "beyond max_position_embeddings"])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("internlm", {}),
        ("internlm", {"rotary": {"type": "dynamic", "base": 5000}}),
        ("internlm", {"rotary": {"type": "origin", "base": 5000}, "bias": False}),
        ("internlm2", {}),
        ("internlm2_bias", {}),
    ],
)
def test_internlm_matches_the_published_description(
    name: str, changes: dict[str, Any], ids: torch.Tensor, tmp_path: Path
) -> None:
    folder = write_tiny(tmp_path, name, **changes)
    reference = published.internlm2 if name.startswith("internlm2") else published.internlm
    expected = reference(*stored(folder), ids)
    assert distance(mapped_logits(open_checkpoint(folder, "huggingface"), ids), expected) <= FAMILY_MAPPING


def test_swapped_wqkv_groups_are_noticed(tmp_path: Path) -> None:
    """The comparison above can fail: the mapping of two KV heads exchanged, or one head's key and value."""
    folder = write_tiny(tmp_path, "internlm2")
    checkpoint = open_checkpoint(folder, "huggingface")
    expected = published.internlm2(*stored(folder), IDS)
    for parts, order in ((("q",), (1, 0)), (("q", "k", "v"), None), (("k", "v"), (1, 0))):
        tensors = dict(checkpoint.tensors)
        names = [f"model.layers.0.self_attn.{part}_proj.weight" for part in parts]
        packed = [tensors[name] for name in names]
        assert all(isinstance(t, RowRanges) for t in packed)
        if order:
            for name, tensor in zip(names, packed):
                tensors[name] = replace(tensor, ranges=tuple(tensor.ranges[i] for i in order))
        else:
            tensors[names[1]], tensors[names[2]] = tensors[names[2]], tensors[names[1]]
        wrong = mapped_logits(replace(checkpoint, tensors=tensors), IDS)
        assert distance(wrong, expected) > 100 * FAMILY_MAPPING


@pytest.mark.parametrize(("qkv_bias", "bias"), [(False, False), (True, False), (False, True), (True, True)])
def test_internlm3_biases(qkv_bias: bool, bias: bool, tmp_path: Path) -> None:
    """Llama's one attention flag holds both of InternLM3's: absent biases are zeros, the others as stored."""
    folder = write_tiny(tmp_path, "internlm3", qkv_bias=qkv_bias, bias=bias)
    state, _ = stored(folder)
    checkpoint = open_checkpoint(folder, "huggingface")
    model = mapped_model(checkpoint)
    for layer in model.model.layers:
        assert (layer.self_attn.o_proj.bias is not None) is (qkv_bias or bias)
        assert (layer.mlp.up_proj.bias is not None) is bias
    for name, tensor in checkpoint.tensors.items():
        expected = state.get(name, torch.zeros(tensor.shape))
        assert torch.equal(torch.from_numpy(tensor.read_rows(0, tensor.shape[0])), expected)
        assert (name in state) or name.endswith(".bias")
    rope = checkpoint.config.rope
    assert (rope.kind, rope.factor, rope.theta, checkpoint.config.head_dim) == ("dynamic", 6.0, 5e7, 16)


@pytest.mark.parametrize("name", sorted(CONFIGS))
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_shards_and_16_bit_weights_read_the_same_values(name: str, dtype: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path, name, dtype=dtype, shards=True)
    assert len(list(folder.glob("*.safetensors"))) > 2
    state: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        state |= load_file(file)
    for parameter, tensor in open_checkpoint(folder, "huggingface").tensors.items():
        if parameter in state:
            found = tensor.read_rows(0, tensor.shape[0])
            assert found.dtype.name == tensor.dtype == dtype
            assert np.array_equal(found.astype(np.float32), state[parameter].float().numpy())


def test_keys_that_are_absent_have_the_published_defaults(tmp_path: Path) -> None:
    """Defaults of the published config classes: biases in InternLM 1 and 2, Mistral's window, Qwen3's heads."""

    def config(name: str, *absent: str) -> ModelConfig:
        values = {key: value for key, value in CONFIGS[name].items() if key not in absent}
        reader = ConfigReader(values, tmp_path / "config.json")
        return find_family(reader).configure(reader)

    assert config("internlm", "bias").hf_config["attention_bias"] is True
    assert config("internlm2", "bias").hf_config["attention_bias"] is True
    assert config("internlm3", "bias", "qkv_bias").hf_config["attention_bias"] is False
    assert config("mistral", "sliding_window").sliding_windows == (4096, 4096)
    assert config("qwen3", "head_dim").head_dim == transformers.Qwen3Config().head_dim == 128
    assert config("internlm", "rope_theta").rope.theta == 10000.0
    assert config("internlm", "num_key_value_heads").num_kv_heads == 6
    assert transformers.MistralConfig().sliding_window == 4096


def test_windows_per_layer(tmp_path: Path) -> None:
    def windows(name: str, **changes: Any) -> tuple[int | None, ...]:
        return open_checkpoint(
            write_tiny(tmp_path / str(len(list(tmp_path.iterdir()))), name, **changes), "huggingface"
        ).config.sliding_windows

    assert windows("mistral") == (5, 5)
    assert windows("mistral", sliding_window=None) == (None, None)
    assert windows("qwen2_window") == (None, 4)
    assert windows("qwen2_window", use_sliding_window=False) == (None, None)
    assert windows("qwen2_window", layer_types=["sliding_attention", "full_attention"]) == (4, None)
    assert windows("qwen3", use_sliding_window=True, sliding_window=7, max_window_layers=0) == (7, 7)
    assert windows("llama") == (None, None)
