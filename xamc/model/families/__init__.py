"""The families of models: one file each, which says its layer, and one line here."""

from __future__ import annotations

from xamc.errors import UnsupportedError
from xamc.model.config import ModelConfig
from xamc.model.families.llama import LLAMA
from xamc.model.families.mistral import MISTRAL
from xamc.model.families.qwen2 import QWEN2
from xamc.model.families.qwen3 import QWEN3
from xamc.model.layer import Family

FAMILIES: dict[str, Family] = {family.architecture: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3)}
"""All families, by the name of their transformers class."""


def family_of(config: ModelConfig) -> Family:
    """The family of a model.

    Raises:
        UnsupportedError: E1105, none has this transformers class.
    """
    if config.architecture not in FAMILIES:
        raise UnsupportedError(
            "E1105",
            f"the model class {config.architecture!r} is not supported",
            f"supported are {', '.join(FAMILIES)}",
        )
    return FAMILIES[config.architecture]
