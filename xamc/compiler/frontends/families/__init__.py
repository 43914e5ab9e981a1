"""How a Hugging Face checkpoint becomes a model of a family (`xamc.model.families`).

Most store each parameter by its transformers name, and the family says what their config.json may hold. A
``model_type`` whose checkpoints have other keys or tensors has a module here, with

- ``configure(reader) -> ModelConfig``: its config.json as one of a family;
- ``parameters(config, source) -> dict``: each parameter as an expression over the checkpoint's tensors;
- ``HEAD_NAME`` (optional): the checkpoint's name of the output matrix, ``lm_head.weight`` when absent.
"""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module

from xamc.compiler.frontends.config_reader import ConfigReader
from xamc.compiler.frontends.configuration import model_config
from xamc.compiler.frontends.tensor_source import TensorSource
from xamc.errors import UnsupportedError
from xamc.ir.weights.lazy import LazyTensor
from xamc.model.config import ModelConfig
from xamc.model.families import FAMILIES
from xamc.model.layer import HEAD_WEIGHT
from xamc.model.parameters import parameter_shapes


@dataclass(frozen=True)
class StoredFamily:
    """How the checkpoints of one ``model_type`` are read: the functions of its module, or what holds for most."""

    model_type: str
    configure: Callable[[ConfigReader], ModelConfig]
    parameters: Callable[[ModelConfig, TensorSource], dict[str, LazyTensor]]
    head_name: str = HEAD_WEIGHT


def own_names(config: ModelConfig, source: TensorSource) -> dict[str, LazyTensor]:
    """Each parameter from the tensor of its own name."""
    return {name: source.take(name, shape) for name, shape in parameter_shapes(config).items()}


def model_types() -> tuple[str, ...]:
    """The supported values of ``model_type``, sorted."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted({*modules, *(family.model_type for family in FAMILIES.values())}))


def find_family(reader: ConfigReader) -> StoredFamily:
    """How the checkpoint of a config.json is read.

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
    for family in FAMILIES.values():
        if family.model_type == model_type:
            return StoredFamily(model_type, partial(model_config, family=family), own_names)
    module = import_module(f"{__name__}.{model_type}")
    head = getattr(module, "HEAD_NAME", StoredFamily.head_name)
    return StoredFamily(model_type, module.configure, getattr(module, "parameters", own_names), head)
