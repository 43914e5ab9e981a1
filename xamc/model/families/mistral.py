"""Mistral: Llama with a sliding window over all layers (or none, from v0.2 on)."""

from __future__ import annotations

from xamc.model.families.llama import llama_layer
from xamc.model.layer import Family

MISTRAL = Family(
    "mistral",
    "MistralForCausalLM",
    llama_layer(),
    windows="all",
    defaults={"num_key_value_heads": 8, "bos_token_id": 1, "eos_token_id": 2},
)
