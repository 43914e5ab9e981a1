"""Keys of config.json that change the function: refused by name, or computed as transformers does, or shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.checkpoints import CONFIGS, FAMILIES, write_tiny
from tests.compiler.frontends.test_families import IDS, LONG_IDS, distance, mapped_logits
from xamc.compiler.frontends import open_checkpoint
from xamc.compiler.frontends.config_reader import ConfigReader
from xamc.compiler.frontends.families import find_family
from xamc.errors import InputError, UnsupportedError, XamcError
from xamc.ir.tolerances import tolerance
from xamc.model.config import ModelConfig


def configured(name: str, *absent: str, **changes: Any) -> tuple[ModelConfig, tuple[str, ...]]:
    values = {key: value for key, value in CONFIGS[name].items() if key not in absent} | changes
    reader = ConfigReader(values, Path("config.json"))
    return find_family(reader).configure(reader), reader.leftover()


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_that_is_not_causal_is_refused_in_every_family(name: str) -> None:
    for key, value in (("is_causal", False), ("use_bidirectional_attention", True)):
        with pytest.raises(UnsupportedError, match=f"{key} {value}") as caught:
            configured(name, **{key: value})
        assert caught.value.code == "E1107"
        assert configured(name, **{key: not value}) == configured(name)


@pytest.mark.parametrize(
    ("key", "value", "neutral"),
    [
        ("attention_chunk_size", 16, None),
        ("num_kv_shared_layers", 1, 0),
        ("per_layer_config", {"0": {"skip": ["mlp"]}}, {}),
        ("text_config", {"hidden_size": 8}, None),
        ("quantization", {"bits": 4, "group_size": 64}, None),
        ("final_logit_softcapping", 30.0, None),
        ("attn_logit_softcapping", 50.0, None),
        ("attention_multiplier", 0.5, 16**-0.5),
        ("query_pre_attn_scalar", 256, 16),
        ("residual_multiplier", 0.22, 1.0),
        ("logit_scale", 2.0, 1),
        ("scale_depth", 1.4, None),
        ("no_rope_layers", [1, 0], [1, 1]),
        ("rope_interleaved", True, False),
        ("position_embedding_type", "alibi", "rope"),
        ("sliding_window", 8, None),
        ("layer_types", ["sliding_attention", "full_attention"], ["full_attention"] * 2),
        ("hidden_activation", "gelu_pytorch_tanh", "silu"),
    ],
)
def test_keys_of_other_functions_are_named_and_neutral_values_pass(key: str, value: Any, neutral: Any) -> None:
    with pytest.raises(UnsupportedError, match=key) as caught:
        configured("llama", **{key: value})
    assert caught.value.code == "E1107" and caught.value.fix
    assert configured("llama", **{key: neutral}) == configured("llama")


def test_windows_that_cut_nothing_off_or_are_switched_off_pass() -> None:
    assert configured("llama", sliding_window=64, max_position_embeddings=64) == configured("llama")
    assert configured("llama", sliding_window=8, use_sliding_window=False) == configured("llama")
    mistral = configured("mistral", layer_types=["sliding_attention"] * 2)
    assert mistral == configured("mistral")
    with pytest.raises(UnsupportedError, match="layer_types"):
        configured("mistral", layer_types=["full_attention", "sliding_attention"])


def test_a_rotary_embedding_per_kind_of_layer_is_refused() -> None:
    """transformers' newer families nest them, and the keys inside would go unread."""
    for key in ("rope_parameters", "rope_scaling"):
        with pytest.raises(InputError, match="full_attention") as caught:
            configured("qwen2", "rope_theta", **{key: {"full_attention": {"rope_type": "default", "rope_theta": 1e6}}})
        assert caught.value.code == "E1106"


def test_the_original_length_beside_rope_scaling_wins_as_in_transformers(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path, "llama3", original_max_position_embeddings=48)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = reference(LONG_IDS).logits
    assert distance(mapped_logits(open_checkpoint(folder, "huggingface"), LONG_IDS), expected) < tolerance(
        "family_mapping"
    )


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral"])
def test_absent_keys_have_the_defaults_of_transformers_classes(name: str) -> None:
    absent = ("bos_token_id", "eos_token_id", "num_key_value_heads", "rope_theta", "rms_norm_eps")
    wide = {"num_attention_heads": 32, "hidden_size": 512}
    values = {key: value for key, value in CONFIGS[name].items() if key not in absent} | wide
    expected = transformers.AutoConfig.for_model(**values)
    config, _ = configured(name, *absent, **wide)
    eos = () if expected.eos_token_id is None else (expected.eos_token_id,)
    assert (config.bos_token_id, config.eos_token_ids) == (expected.bos_token_id, eos)
    assert config.num_kv_heads == expected.num_key_value_heads
    assert config.rope.theta == expected.rope_parameters["rope_theta"]
    assert config.rms_norm_eps == expected.rms_norm_eps
    null, _ = configured(name, bos_token_id=None, eos_token_id=None, num_key_value_heads=None)
    assert (null.bos_token_id, null.eos_token_ids, null.num_kv_heads) == (None, (), null.num_heads)


def test_what_has_no_effect_is_shown(tmp_path: Path) -> None:
    folder = write_tiny(
        tmp_path,
        "llama",
        wibble=3,
        temperature=0.7,
        pretraining_tp=2,
        rope_scaling={"rope_type": "linear", "factor": 2.0, "mscale": 1.0},
    )
    checkpoint = open_checkpoint(folder, "huggingface")
    assert checkpoint.ignored_keys == ("rope_scaling.mscale", "wibble")
    [warning] = checkpoint.warnings
    assert "config.json" in warning and "rope_scaling.mscale, wibble" in warning
    # and none of the four has an effect in transformers either
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = reference(IDS).logits
    assert distance(mapped_logits(checkpoint, IDS), expected) < tolerance("family_mapping")


def test_transformers_decoders_read_no_key_that_nobody_knows(tmp_path: Path) -> None:
    """Every attribute of a config that transformers' class brings is used, neutral or refused: none is left over."""
    for name in ("llama", "qwen2", "qwen3", "mistral"):
        values = {key: value for key, value in CONFIGS[name].items() if key not in ("rope_theta", "rope_scaling")}
        written = transformers.AutoConfig.for_model(**values).to_dict()
        reader = ConfigReader(json.loads(json.dumps(written)), tmp_path / "config.json")
        find_family(reader).configure(reader)
        assert reader.leftover() == (), name


def test_the_class_of_an_error_is_ours_for_any_value() -> None:
    for key in ("is_causal", "attention_multiplier", "no_rope_layers", "layer_types", "sliding_window", "logit_scale"):
        for value in (True, 0, -1, 1.5, "x", [], ["x"], {}, {"a": 1}, [None]):
            try:
                configured("llama", **{key: value})
            except XamcError as error:
                assert key in error.message


def test_code_of_the_folder_that_is_not_run_is_mentioned(tmp_path: Path) -> None:
    """A bidirectional embedder may say so in its Python files alone; InternLM's say what is computed anyhow."""
    code = {"AutoConfig": "configuration_x.X", "AutoModel": "modeling_x.XEncoder", "AutoTokenizer": ["t.T", None]}
    [warning] = open_checkpoint(write_tiny(tmp_path / "a", "qwen2", auto_map=code), "huggingface").warnings
    assert "auto_map" in warning and "modeling_x.XEncoder" in warning and "never run" in warning
    assert not open_checkpoint(write_tiny(tmp_path / "b", "internlm2", auto_map=code), "huggingface").warnings
    with pytest.raises(UnsupportedError, match="Qwen3BidirectionalModel"):
        configured("qwen3", architectures=["Qwen3BidirectionalModel"])
