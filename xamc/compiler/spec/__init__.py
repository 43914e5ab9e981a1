"""From a build file to checked, frozen dataclasses."""

from xamc.compiler.spec.errors import SET_PATH, SpecErrors
from xamc.compiler.spec.load import load_spec
from xamc.compiler.spec.model import (
    Backend,
    Frontend,
    LoadedSpec,
    ModelKwargs,
    Passes,
    Quantize,
    Runtime,
    Spec,
    SpecWarning,
    Verify,
    Workspace,
)
from xamc.compiler.spec.schema import json_schema
from xamc.compiler.spec.uses import KeyUse, key_uses

__all__ = [
    "SET_PATH",
    "Backend",
    "Frontend",
    "KeyUse",
    "LoadedSpec",
    "ModelKwargs",
    "Passes",
    "Quantize",
    "Runtime",
    "Spec",
    "SpecErrors",
    "SpecWarning",
    "Verify",
    "Workspace",
    "json_schema",
    "key_uses",
    "load_spec",
]
