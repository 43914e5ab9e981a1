"""Qwen3 (dense): Llama with RMS-normalized queries and keys, explicit head width, windows as in Qwen2."""

from __future__ import annotations

from xamc.model.families.llama import llama_layer
from xamc.model.layer import Family, GgufArchitecture

QWEN3 = Family(
    "qwen3",
    "Qwen3ForCausalLM",
    llama_layer(qkv_bias="attention_bias", o_bias="attention_bias", qk_norm=True),
    windows="upper",
    gguf=(GgufArchitecture("qwen3"),),
    # not hidden_size / num_attention_heads
    defaults={"head_dim": 128, "num_key_value_heads": 32},
)
