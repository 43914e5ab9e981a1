"""Mistral: Llama with a sliding window over all layers (or none, from v0.2 on)."""

from __future__ import annotations

from xamc.compiler.frontends.configuration import ConfigReader, model_config
from xamc.compiler.frontends.families.llama import parameters
from xamc.errors import UnsupportedError
from xamc.model.config import ModelConfig

__all__ = ["configure", "parameters"]


def configure(reader: ConfigReader) -> ModelConfig:
    layers = reader.integer("num_hidden_layers")
    # An absent key means 4096 in transformers' MistralConfig; null means none.
    absent = "sliding_window" not in reader.values
    window = 4096 if absent else reader.integer("sliding_window", None)
    reader.used.add("layer_types")
    kinds = reader.values.get("layer_types")
    if kinds not in (None, ["full_attention" if window is None else "sliding_attention"] * layers):
        raise UnsupportedError(
            "E1107",
            f"{reader.source}: layer_types and sliding_window {window} don't say the same of all {layers} layers",
            "Mistral has one window for all layers, or none; Ministral, whose layers differ, is not supported",
        )
    return model_config(
        reader,
        "MistralForCausalLM",
        sliding_windows=(window,) * layers,
        kv_heads=8,  # where the key is absent
        bos_token_id=1,
        eos_token_id=2,
        extra={"sliding_window": window},
    )
