"""Metadata keys and tensors of GGUF files that change what a model computes are refused by name, others are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checkpoints import write_tiny
from tests.compiler.frontends.gguf_files import write_gguf
from xamc.compiler.frontends import Checkpoint, open_checkpoint
from xamc.compiler.frontends.gguf.keys import leftover_keys
from xamc.errors import InputError, UnsupportedError, XamcError

WIDE = {"hidden_size": 96, "intermediate_size": 128, "head_dim": 16, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("gguf") / "hf", "llama", **WIDE)


def opened(folder: Path, tmp_path: Path, metadata: dict[str, Any], adjust: Any = None) -> Checkpoint:
    write_gguf(tmp_path / "m.gguf", folder, metadata=metadata, adjust=adjust)
    return open_checkpoint(tmp_path / "m.gguf", "gguf")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.causal", False),
        ("attention.clamp_kqv", 0.5),
        ("attention.max_alibi_bias", 8.0),
        ("attention.scale", 0.015625),
        ("attention.sliding_window_pattern", 4),
        ("attention.temperature_scale", 0.1),
        ("attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", 30.0),
        ("logit_scale", 0.0625),
        ("residual_scale", 0.22),
        ("embedding_scale", 12.0),
        ("expert_count", 8),
        ("nextn_predict_layers", 1),
        ("use_parallel_residual", True),
        ("hidden_activation", "gelu"),
        ("embedding_length_out", 48),
        ("pooling_type", 4),
        ("rope.dimension_sections", [8, 4, 4, 0]),
        ("ssm.conv_kernel", 4),
    ],
)
def test_a_key_that_changes_the_function(key: str, value: Any, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError) as caught:
        opened(folder, tmp_path, {f"llama.{key}": value})
    assert caught.value.code == "E1107" and f"llama.{key}" in caught.value.message
    assert "config.json" not in caught.value.fix


def test_what_is_so_anyway_is_taken(folder: Path, tmp_path: Path) -> None:
    metadata: dict[str, Any] = {
        "llama.attention.causal": True,
        "llama.attention.scale": 0.25,  # heads of 16
        "llama.attention.head_count": [6],
        "llama.attention.clamp_kqv": 0.0,
        "llama.logit_scale": 1.0,
        "llama.expert_count": 0,
        "llama.use_parallel_residual": False,
        "llama.hidden_activation": "silu",
        "llama.attention.value_length": 16,
        "llama.attention.sliding_window": 4096,
        "llama.tensor_data_layout": "Meta AI original pth",
        "llama.vocab_size": 331,
        "llama.embedding_length_out": 96,
        "general.type": "model",
        "general.file_type": 0,
        "quantize.imatrix.dataset": "x",
    }
    checkpoint = opened(folder, tmp_path, metadata)
    assert checkpoint.ignored_keys == () and checkpoint.warnings == ()


def test_keys_without_meaning_are_named(folder: Path, tmp_path: Path) -> None:
    metadata = {
        "llama.pooling_type": 3,
        "llama.mystery": 1,
        "qwen2.logit_scale": 0.5,
        "general.sampling.min_p": 0.1,
        "tokenizer.ggml.padding_token_id": 4294967295,
    }
    checkpoint = opened(folder, tmp_path, metadata)
    names = ("general.sampling.min_p", "llama.mystery", "llama.pooling_type", "qwen2.logit_scale")
    assert checkpoint.ignored_keys == names
    keys, padding = checkpoint.warnings
    assert f"{', '.join(names)} have no effect" in keys
    assert "tokenizer.ggml.padding_token_id 4294967295 is no token" in padding


def test_every_switch_is_refused(tmp_path: Path) -> None:
    from xamc.compiler.frontends.gguf import keys as gguf_keys

    for own in (gguf_keys._SWITCHES | gguf_keys._FACTORS | gguf_keys._SINGLE) - {"attention.causal"}:
        with pytest.raises(UnsupportedError, match=own):
            leftover_keys({f"llama.{own}": 7}, tmp_path, "llama", ())


def test_sampling_defaults_of_the_author(folder: Path, tmp_path: Path) -> None:
    sampling = {"temp": 0.6, "top_k": 20, "top_p": 0.95, "penalty_repeat": 1.1}
    generation = opened(folder, tmp_path, {f"general.sampling.{k}": v for k, v in sampling.items()}).generation
    assert generation.do_sample is True and generation.top_k == 20
    assert generation.temperature == pytest.approx(0.6) and generation.top_p == pytest.approx(0.95)
    assert generation.repetition_penalty == pytest.approx(1.1)
    greedy = opened(folder, tmp_path, {"general.sampling.temp": 0.0, "general.sampling.top_k": -1}).generation
    assert (greedy.do_sample, greedy.temperature, greedy.top_k) == (False, None, 0)


@pytest.mark.parametrize(
    ("metadata", "error", "words"),
    [
        ({"general.type": "adapter"}, UnsupportedError, "general.type"),
        ({"general.type": "mmproj"}, UnsupportedError, "general.type"),
        ({"tokenizer.ggml.suppress_tokens": [3]}, UnsupportedError, "tokenizer.ggml.suppress_tokens"),
        ({"llama.attention.layer_norm_rms_epsilon": None}, InputError, "layer_norm_rms_epsilon"),
        ({"llama.context_length": 0}, InputError, "llama.context_length"),
        ({"llama.embedding_length": 97, "llama.attention.key_length": None}, InputError, "llama.embedding_length 97"),
        ({"tokenizer.ggml.add_bos_token": "yes"}, InputError, "tokenizer.ggml.add_bos_token"),
    ],
)
def test_remedies_speak_of_gguf(
    metadata: dict[str, Any], error: type[XamcError], words: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        opened(folder, tmp_path, metadata)
    assert words in caught.value.message
    assert "config.json" not in f"{caught.value.message} {caught.value.fix}" and caught.value.fix


@pytest.mark.parametrize(
    "name",
    ["blk.0.attn_q.scale", "blk.0.attn_q.input_scale", "blk.0.attn_sub_norm.weight", "rope_factors_long.weight",
     "output.bias", "cls.output.weight", "blk.0.ffn_gate_exps.weight", "blk.1.attn_norm.weight"],
)  # fmt: skip
def test_a_tensor_that_nobody_reads(name: str, folder: Path, tmp_path: Path) -> None:
    def adjust(tensors: dict[str, np.ndarray]) -> None:
        tensors[name] = np.ones(8, np.float32)

    with pytest.raises(InputError) as caught:
        opened(folder, tmp_path, {}, adjust)
    assert caught.value.code == "E1121" and name in caught.value.message
    assert "config.json" not in f"{caught.value.message} {caught.value.fix}"


def test_any_bias_of_a_layer_is_taken(folder: Path, tmp_path: Path) -> None:
    """llama.cpp looks for each bias by itself."""
    values = np.arange(96, dtype=np.float32)

    def adjust(tensors: dict[str, np.ndarray]) -> None:
        tensors["blk.0.attn_output.bias"] = values
        tensors["blk.0.ffn_down.bias"] = values + 1

    tensors = opened(folder, tmp_path, {}, adjust).tensors
    assert np.array_equal(tensors["model.layers.0.self_attn.o_proj.bias"].read_rows(0, 96), values)
    assert np.array_equal(tensors["model.layers.0.mlp.down_proj.bias"].read_rows(0, 96), values + 1)
    assert not tensors["model.layers.0.self_attn.q_proj.bias"].read_rows(0, 96).any()
    assert not tensors["model.layers.0.mlp.up_proj.bias"].read_rows(0, 128).any()


def test_a_fused_qkv_is_taken_apart(folder: Path, tmp_path: Path) -> None:
    def adjust(tensors: dict[str, np.ndarray]) -> None:
        parts = [tensors.pop(f"blk.0.attn_{part}.weight") for part in "qkv"]
        tensors["blk.0.attn_qkv.weight"] = np.concatenate(parts)

    (tmp_path / "fused").mkdir()
    plain, fused = opened(folder, tmp_path, {}), opened(folder, tmp_path / "fused", {}, adjust)
    for part in "qkv":
        name = f"model.layers.0.self_attn.{part}_proj.weight"
        rows = plain.tensors[name].shape[0]
        assert np.array_equal(plain.tensors[name].read_rows(0, rows), fused.tensors[name].read_rows(0, rows))
