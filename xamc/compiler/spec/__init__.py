"""From a build file to checked, frozen dataclasses."""

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

__all__ = [
    "Backend",
    "Frontend",
    "LoadedSpec",
    "ModelKwargs",
    "Passes",
    "Quantize",
    "Runtime",
    "Spec",
    "SpecWarning",
    "Verify",
    "Workspace",
]
