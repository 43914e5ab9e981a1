"""Mistral: Llama with a sliding window over all layers (or none, from v0.2 on)."""

from __future__ import annotations

from xamc.compiler.contract import ModelConfig
from xamc.compiler.frontends.configuration import ConfigReader, model_config
from xamc.compiler.frontends.families.llama import parameters

__all__ = ["configure", "parameters"]


def configure(reader: ConfigReader) -> ModelConfig:
    layers = reader.integer("num_hidden_layers")
    # An absent key means 4096 in transformers' MistralConfig; null means none.
    absent = "sliding_window" not in reader.values
    window = 4096 if absent else reader.integer("sliding_window", None)
    return model_config(
        reader, "MistralForCausalLM", sliding_windows=(window,) * layers, extra={"sliding_window": window}
    )
