"""Runs artifacts: `load(path)` gives a `Model` with `.logits`, `.generate`, `.stream` and `.chat`.

Of an artifact that holds one graph it gives a `GraphModel` with `.run`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xamc.runtime.generate import Generation, Options, Stream
from xamc.runtime.model import Model, load, load_language_model
from xamc.runtime.threads import use_cpus

if TYPE_CHECKING:
    from xamc.runtime.graph import GraphModel, load_graph

__all__ = [
    "Generation",
    "GraphModel",
    "Model",
    "Options",
    "Stream",
    "load",
    "load_graph",
    "load_language_model",
    "use_cpus",
]


def __getattr__(name: str) -> Any:
    """What concerns graphs is imported when asked for: a language model is ready sooner without it."""
    if name in ("GraphModel", "load_graph"):
        from xamc.runtime import graph

        return getattr(graph, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
