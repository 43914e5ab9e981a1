"""Qwen2 and 2.5: Llama with biases on q, k and v, and a sliding window over the layers from max_window_layers on."""

from __future__ import annotations

from typing import Any

from xamc.compiler.frontends.configuration import ConfigReader, model_config
from xamc.compiler.frontends.families.llama import parameters
from xamc.errors import InputError
from xamc.model.config import ModelConfig

__all__ = ["configure", "parameters", "sliding_windows"]


def configure(reader: ConfigReader) -> ModelConfig:
    windows, extra = sliding_windows(reader)
    return model_config(reader, "Qwen2ForCausalLM", sliding_windows=windows, kv_heads=32, extra=extra)


def sliding_windows(reader: ConfigReader) -> tuple[list[int | None], dict[str, Any]]:
    """Window per layer, and the same as arguments of transformers' Qwen2Config and Qwen3Config."""
    layers = reader.integer("num_hidden_layers")
    # Absent means 4096, null means none.
    length = reader.integer("sliding_window", None) if "sliding_window" in reader.values else 4096
    first = reader.integer("max_window_layers", 28, low=0)
    use = reader.flag("use_sliding_window", False)
    kinds = reader.values.get("layer_types")
    reader.used.add("layer_types")
    if kinds is None:
        kinds = ["sliding_attention" if use and length and i >= first else "full_attention" for i in range(layers)]
    names = ("full_attention", "sliding_attention")
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in names for kind in kinds):
        raise InputError(
            "E1104", f"{reader.source}: layer_types is not a list of {layers} entries of {names}", "restore config.json"
        )
    if not (use and length) and "sliding_attention" in kinds:
        raise InputError(
            "E1104",
            f"{reader.source}: layer_types asks for windows, use_sliding_window and sliding_window do not",
            "restore config.json",
        )
    windows = [length if kind == "sliding_attention" else None for kind in kinds]
    extra = {"use_sliding_window": use, "sliding_window": length, "max_window_layers": first, "layer_types": kinds}
    return windows, extra
