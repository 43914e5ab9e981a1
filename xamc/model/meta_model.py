"""transformers' own model of a config, on the meta device."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError

from xamc.errors import InputError
from xamc.model.config import ModelConfig


def meta_model(config: ModelConfig, attention: str) -> Any:
    """The transformers model of `config` on the meta device, in evaluation mode; allocates no weight.

    Args:
        config: the model.
        attention: the name of an attention function that transformers knows.

    Raises:
        InputError: E1104, transformers finds config.json to contradict itself.
    """
    cls = getattr(transformers, config.architecture)
    try:
        hf_config = cls.config_class(**dict(config.hf_config))
    except StrictDataclassError as error:
        raise InputError(
            "E1104",
            f"transformers refuses config.json: {str(error.__cause__ or error).rstrip('.')}",
            "use the config.json that came with the weights",
        ) from None
    hf_config._attn_implementation = attention
    with torch.device("meta"):
        return cls(hf_config).eval()
