"""transformers' own model of a config, on the meta device."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from xamc.model.config import ModelConfig


def meta_model(config: ModelConfig, attention: str) -> Any:
    """The transformers model of `config` on the meta device, in evaluation mode; allocates no weight.

    Args:
        config: the model.
        attention: the name of an attention function that transformers knows.
    """
    cls = getattr(transformers, config.architecture)
    hf_config = cls.config_class(**dict(config.hf_config))
    hf_config._attn_implementation = attention
    with torch.device("meta"):
        return cls(hf_config).eval()
