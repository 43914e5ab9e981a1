"""Tiny random checkpoints of every family, in the names and packing of the published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.make_checkpoint import write_checkpoint

_SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 272,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}

# Test name → config.json. GQA with a group of 3, and heads whose total width differs from hidden_size where a
# family allows it, so that a mixed-up axis can't go unnoticed.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**_SIZES, "model_type": "llama", "head_dim": 16, "rope_theta": 10000.0},
    "llama3": {
        **_SIZES,
        "model_type": "llama",
        "tie_word_embeddings": True,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "llama_bias": {**_SIZES, "model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "internlm": {k: v for k, v in _SIZES.items() if k != "num_key_value_heads"}
    | {"model_type": "internlm", "bias": True},
    "internlm2": {
        **_SIZES,
        "model_type": "internlm2",
        "bias": False,
        "rope_theta": 1000000,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
    },
    "internlm2_bias": {**_SIZES, "model_type": "internlm2", "bias": True},
    "internlm3": {
        **_SIZES,
        "model_type": "internlm3",
        "head_dim": 16,
        "qkv_bias": False,
        "bias": False,
        "rope_theta": 50000000,
        "rope_scaling": {"rope_type": "dynamic", "factor": 6.0},
    },
    "internlm3_bias": {**_SIZES, "model_type": "internlm3", "head_dim": 16, "qkv_bias": True, "bias": False},
    "qwen2": {**_SIZES, "model_type": "qwen2", "use_sliding_window": False, "rope_theta": 1000000.0},
    "qwen2_window": {
        **_SIZES,
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
    },
    "qwen3": {**_SIZES, "model_type": "qwen3", "head_dim": 16, "rope_theta": 1000000.0},
    "mistral": {**_SIZES, "model_type": "mistral", "head_dim": 16, "sliding_window": 5},
}

# One per family, for tests that only need to have seen each.
FAMILIES = ("llama", "internlm", "internlm2", "internlm3", "qwen2", "qwen3", "mistral")


def write_tiny(
    folder: Path, name: str, *, dtype: str = "float32", seed: int = 0, shards: bool = False, **changes: Any
) -> Path:
    """Writes the tiny checkpoint `name` of `CONFIGS`, with `changes` to its config.json; returns `folder`."""
    config = CONFIGS[name] | changes
    return write_checkpoint(folder, config, dtype=dtype, seed=seed, shard_bytes=40_000 if shards else 10**12)
