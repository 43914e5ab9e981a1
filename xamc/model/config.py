"""What the stages hand to each other, as plain data.

This module is also read by the runtime, so it imports nothing but the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

_TRANSFORMERS_NAMES = {
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "eos_token_ids": "eos_token_id",
}
RopeKind = Literal["default", "linear", "dynamic", "llama3"]


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding of a model, as transformers' ``rope_parameters`` name it."""

    kind: RopeKind
    theta: float
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 0


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only language model, normalized over all families.

    `sliding_windows` has one entry per layer: the window's length in tokens, or None for full attention.
    `eos_token_ids` lists every id that ends a generation. `hf_config` is the allow-listed config.json, from
    which the exporter builds the transformers model of class `architecture`.
    """

    model_type: str
    architecture: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope: RopeConfig
    tie_word_embeddings: bool
    qk_norm: bool
    sliding_windows: tuple[int | None, ...]
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    hf_config: Mapping[str, Any]

    def changed(self, **fields: Any) -> ModelConfig:
        """The same model but for `fields` that transformers' config classes have as well; `hf_config` follows."""
        return replace(self, **fields, hf_config={**self.hf_config, **transformers_arguments(fields)})

    @property
    def window(self) -> int | None:
        """The most positions that any layer attends to; None if there is a layer that attends to all."""
        windows = [window for window in self.sliding_windows if window is not None]
        return max(windows) if windows and len(windows) == self.num_layers else None


def transformers_arguments(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `ModelConfig` as arguments of transformers' config classes; no end ids are None."""
    values = {name: list(value) or None if name == "eos_token_ids" else value for name, value in fields.items()}
    return {_TRANSFORMERS_NAMES.get(name, name): value for name, value in values.items()}
