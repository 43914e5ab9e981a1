"""Model families, one file per ``model_type``: how config.json and tensors become a transformers class.

A family module has

- ``configure(reader) -> ModelConfig``: config.json to the transformers class and its arguments;
- ``parameters(config, source) -> dict``: each parameter of that class as an expression over the checkpoint's tensors;
- ``HEAD_NAME`` (optional): the checkpoint's name of the output matrix, ``lm_head.weight`` when absent.
"""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from xamc.compiler.frontends.configuration import ConfigReader
from xamc.compiler.frontends.tensor_source import TensorSource
from xamc.errors import UnsupportedError
from xamc.ir.weights.lazy import LazyTensor
from xamc.model.config import ModelConfig


@dataclass(frozen=True)
class Family:
    """The functions of a family module."""

    model_type: str
    configure: Callable[[ConfigReader], ModelConfig]
    parameters: Callable[[ModelConfig, TensorSource], dict[str, LazyTensor]]
    head_name: str


def model_types() -> tuple[str, ...]:
    """The supported values of ``model_type``, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def find_family(reader: ConfigReader) -> Family:
    """The family of a config.json.

    Raises:
        UnsupportedError: E1105, naming the closest supported types.
    """
    model_type = reader.values.get("model_type")
    supported = model_types()
    if model_type not in supported:
        close = difflib.get_close_matches(str(model_type).lower(), supported, n=3, cutoff=0.6)
        raise UnsupportedError(
            "E1105",
            f"{reader.source}: model_type {model_type!r} is not supported",
            f"supported are {', '.join(supported)}" + (f"; the closest is {close[0]}" if close else ""),
        )
    module = import_module(f"{__name__}.{model_type}")
    return Family(model_type, module.configure, module.parameters, getattr(module, "HEAD_NAME", "lm_head.weight"))
