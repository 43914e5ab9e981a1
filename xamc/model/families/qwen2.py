"""Qwen2 and 2.5: Llama with biases on q, k and v, and a sliding window over the layers from max_window_layers on."""

from __future__ import annotations

from xamc.model.families.llama import llama_layer
from xamc.model.layer import Family, GgufArchitecture

QWEN2 = Family(
    "qwen2",
    "Qwen2ForCausalLM",
    llama_layer(qkv_bias=True),
    windows="upper",
    gguf=(GgufArchitecture("qwen2"),),
    defaults={"num_key_value_heads": 32},
)
