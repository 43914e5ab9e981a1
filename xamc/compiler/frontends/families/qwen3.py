"""Qwen3 (dense): Llama with RMS-normalized queries and keys, explicit head width, windows as in Qwen2."""

from __future__ import annotations

from xamc.compiler.frontends.configuration import ConfigReader, model_config
from xamc.compiler.frontends.families.llama import parameters
from xamc.compiler.frontends.families.qwen2 import sliding_windows
from xamc.model.config import ModelConfig

__all__ = ["configure", "parameters"]


def configure(reader: ConfigReader) -> ModelConfig:
    windows, extra = sliding_windows(reader)
    extra["attention_bias"] = reader.flag("attention_bias", False)
    # 128 is the default of transformers' Qwen3Config, not hidden_size / num_attention_heads.
    return model_config(
        reader,
        "Qwen3ForCausalLM",
        head_dim=128,
        qk_norm=True,
        sliding_windows=windows,
        kv_heads=32,
        extra=extra,
    )
