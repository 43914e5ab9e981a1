"""Runs artifacts: `load(path)` gives a `Model` with `.logits`, `.generate`, `.stream` and `.chat`.

Of an artifact that holds one graph it gives a `GraphModel` with `.run`. `pipeline` puts an artifact behind the call of
transformers' pipelines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xamc.runtime.generate import Generation, Options, Stream
from xamc.runtime.model import Model, load, load_language_model
from xamc.runtime.threads import use_cpus

if TYPE_CHECKING:
    from xamc.runtime.graph import GraphModel, load_graph
    from xamc.runtime.text_generation import TextGenerationPipeline, pipeline

__all__ = [
    "Generation",
    "GraphModel",
    "Model",
    "Options",
    "Stream",
    "TextGenerationPipeline",
    "load",
    "load_graph",
    "load_language_model",
    "pipeline",
    "use_cpus",
]


def __getattr__(name: str) -> Any:
    """Graphs and pipelines are imported when asked for: a language model is ready sooner without them."""
    if name in ("GraphModel", "load_graph"):
        from xamc.runtime import graph

        return getattr(graph, name)
    if name in ("TextGenerationPipeline", "pipeline"):
        from xamc.runtime import text_generation

        return getattr(text_generation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
