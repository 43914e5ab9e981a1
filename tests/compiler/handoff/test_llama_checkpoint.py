"""The written Llama checkpoint against the original, both under transformers, which knows nothing of xamc."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from tests.checkpoints import CONFIGS, write_tiny
from tests.end_to_end import references
from xamc.compiler.frontends import open_checkpoint
from xamc.compiler.handoff.llama_checkpoint import StoredDtype, as_llama
from xamc.compiler.handoff.safetensors_shards import write_shards
from xamc.errors import InputError, UnsupportedError
from xamc.ir.tolerances import tolerance
from xamc.verify.metrics import relative_error

LONGEST = 24


def written(source: Path, folder: Path, dtype: StoredDtype = "source", longest: int = LONGEST) -> Any:
    """The plain Llama checkpoint of `source`, in `folder`, with the plan it was written from."""
    folder.mkdir(parents=True)
    llama = as_llama(open_checkpoint(source, "huggingface"), longest, dtype)
    write_shards(folder, llama.tensors)
    (folder / "config.json").write_text(json.dumps(llama.config))
    return llama


def loaded(folder: Path) -> Any:
    """The folder under stock LlamaForCausalLM, every weight accounted for."""
    model, info = transformers.LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def internlm(folder: Path) -> Any:
    """InternLM 1 and 2 with biases, spelled out: transformers has no class for either, and xamc no part in it."""
    config = json.loads((folder / "config.json").read_text())
    state = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.endswith("inv_freq")}
    heads = config["num_attention_heads"]
    kv = config.get("num_key_value_heads", heads)
    width = config["hidden_size"] // heads
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if ".wqkv." in name:
            rows = tensor.reshape(kv, heads // kv + 2, width, *tensor.shape[1:])
            for part, piece in (("q", rows[:, :-2]), ("k", rows[:, -2]), ("v", rows[:, -1])):
                plain[name.replace("attention.wqkv", f"self_attn.{part}_proj")] = piece.reshape(-1, *tensor.shape[1:])
            continue
        for theirs, ours in {
            "tok_embeddings": "embed_tokens",
            "attention_norm": "input_layernorm",
            "ffn_norm": "post_attention_layernorm",
            "attention.wo": "self_attn.o_proj",
            "feed_forward.w1": "mlp.gate_proj",
            "feed_forward.w3": "mlp.up_proj",
            "feed_forward.w2": "mlp.down_proj",
        }.items():
            name = name.replace(theirs, ours)
        plain["lm_head.weight" if name == "output.weight" else name] = tensor
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    keys += ("max_position_embeddings", "rms_norm_eps")
    llama = transformers.LlamaConfig(
        **{key: config[key] for key in keys},
        num_key_value_heads=kv,
        attention_bias=config["bias"],
        attn_implementation="eager",
    )
    model = transformers.LlamaForCausalLM(llama).eval()
    model.load_state_dict(plain, strict=True)
    return model


REFERENCES = {
    "llama": references.own_loading,
    "llama3": references.own_loading,
    "llama_bias": references.own_loading,
    "internlm": internlm,
    "internlm2": references.as_llama,
    "internlm2_bias": internlm,
    "internlm3": references.as_llama,
    "qwen2": references.own_loading,
    "mistral": references.own_loading,
}


@pytest.mark.parametrize("kind", REFERENCES)
def test_logits_equal_the_original(kind: str, tmp_path: Path) -> None:
    changes = {"sliding_window": LONGEST} if kind == "mistral" else {}
    source = write_tiny(tmp_path / "source", kind, **changes)
    llama = written(source, tmp_path / "llama")
    rows = [np.random.default_rng(5).integers(3, 272, length) for length in (17, 6)]
    following = np.random.default_rng(6).integers(3, 272, (2, LONGEST - 17))
    expected = references.answers(REFERENCES[kind](source), rows, following)
    for found, wanted in zip(references.answers(loaded(tmp_path / "llama"), rows, following), expected, strict=True):
        assert relative_error(found, wanted) <= tolerance("family_mapping")
    assert llama.config["model_type"] == "llama" and "auto_map" not in llama.config


def test_qkv_bias_of_internlm3_next_to_an_o_bias_of_zeros(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "source", "internlm3_bias")
    llama = written(source, tmp_path / "llama")
    state, plain = load_file(source / "model.safetensors"), load_file(tmp_path / "llama" / "model.safetensors")
    assert set(plain) - set(state) == {f"model.layers.{i}.self_attn.o_proj.bias" for i in range(2)}
    assert all(torch.equal(plain[name], state[name]) for name in state)
    assert not any(plain[name].any() for name in set(plain) - set(state))
    assert llama.config["attention_bias"] is True and "mlp_bias" not in llama.config


@pytest.mark.parametrize("kind", ["qwen2", "mistral", "llama_bias", "internlm3"])
def test_config_holds_what_old_releases_need(kind: str, tmp_path: Path) -> None:
    """The checks of LlamaConfig in transformers 4.34 to 4.42, and the oldest release that knows every key."""
    source = write_tiny(tmp_path / "source", kind, **({"sliding_window": 30} if kind == "mistral" else {}))
    llama = as_llama(open_checkpoint(source, "huggingface"), LONGEST)
    scaling = llama.config["rope_scaling"]
    assert scaling is None or (set(scaling) == {"type", "factor"} and isinstance(scaling["factor"], float))
    assert llama.config["torch_dtype"] == "float16" and {t.dtype for t in llama.tensors.values()} == {"float16"}
    oldest = {"qwen2": "4.34.0", "mistral": "4.45.0", "llama_bias": "4.41.0", "internlm3": "4.45.0"}
    assert llama.transformers == oldest[kind]
    if kind == "mistral":
        assert llama.config["max_position_embeddings"] == 30 and any("sliding window" in n for n in llama.notes)


def test_not_llama_shaped(tmp_path: Path) -> None:
    for kind, changes, what in (
        ("qwen3", {}, "normalizes queries and keys"),
        ("mistral", {"sliding_window": LONGEST - 1}, "a sliding window of 23 tokens in 2 of 2 layers"),
        ("qwen2_window", {}, "a sliding window of 4 tokens in 1 of 2 layers"),
    ):
        source = write_tiny(tmp_path / f"{kind}{len(changes)}", kind, **changes)
        with pytest.raises(UnsupportedError, match=what) as caught:
            as_llama(open_checkpoint(source, "huggingface"), LONGEST)
        assert caught.value.code == "E1450" and caught.value.exit_code == 3


def test_dynamic_rope_without_growth(tmp_path: Path) -> None:
    """InternLM 1 names dynamic scaling of factor 1: nothing within its positions, and a refused config outside."""
    source = write_tiny(tmp_path / "source", "internlm", rotary={"type": "dynamic", "base": 20000})
    checkpoint = open_checkpoint(source, "huggingface")
    llama = as_llama(checkpoint, 64)
    assert llama.config["rope_scaling"] is None and llama.config["rope_theta"] == 20000.0
    assert any("is left out" in note for note in llama.notes)
    with pytest.raises(UnsupportedError, match="E1450"):
        as_llama(checkpoint, 80)


def test_every_family_is_decided(tmp_path: Path) -> None:
    """A family that is added later has to be mapped or refused, not to slip through."""
    for kind in CONFIGS:
        checkpoint = open_checkpoint(write_tiny(tmp_path / kind, kind), "huggingface")
        try:
            assert set(as_llama(checkpoint, 4).tensors) >= set(checkpoint.tensors)
        except UnsupportedError as error:
            assert error.code == "E1450"
    config = dataclasses.replace(checkpoint.config, architecture="OtherForCausalLM", qk_norm=False)
    with pytest.raises(UnsupportedError, match="OtherForCausalLM"):
        as_llama(dataclasses.replace(checkpoint, config=config), 4)


def test_half_precision_is_checked(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "source", "llama", dtype="float32")
    state = load_file(source / "model.safetensors")
    import safetensors.torch

    state["model.norm.weight"][3] = 70000.0
    safetensors.torch.save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="E1124"):
        written(source, tmp_path / "llama", "float16")
    state["model.norm.weight"][3] = float("nan")
    safetensors.torch.save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="E1123"):
        shutil.rmtree(tmp_path / "llama")
        written(source, tmp_path / "llama", "float16")


def test_bfloat16_to_float16_is_what_torch_makes_of_it(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "source", "internlm2", dtype="bfloat16")
    written(source, tmp_path / "llama", "float16")
    state, plain = load_file(source / "model.safetensors"), load_file(tmp_path / "llama" / "model.safetensors")
    pairs = {
        "model.layers.1.feed_forward.w2.weight": "model.layers.1.mlp.down_proj.weight",
        "output.weight": "lm_head.weight",
    }
    for theirs, ours in pairs.items():
        assert torch.equal(state[theirs].to(torch.float16), plain[ours])
