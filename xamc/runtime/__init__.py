"""Runs artifacts: `load(path)` gives a `Model` with `.logits`, `.generate`, `.stream` and `.chat`.

Of an artifact that holds one graph it gives a `GraphModel` with `.run`. `pipeline` puts an artifact behind the call of
transformers' pipelines. `Model.engine` runs sequences that come and go.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xamc.runtime.answer import Answer, Generation
    from xamc.runtime.engine import Engine, Produced
    from xamc.runtime.executors.graph import GraphModel, load_graph
    from xamc.runtime.generate import Stream
    from xamc.runtime.model import Model, load, load_language_model
    from xamc.runtime.options import Options
    from xamc.runtime.text_generation import TextGenerationPipeline, pipeline
    from xamc.runtime.threads import use_cpus

__all__ = [
    "Answer",
    "Engine",
    "Generation",
    "GraphModel",
    "Model",
    "Options",
    "Produced",
    "Stream",
    "TextGenerationPipeline",
    "load",
    "load_graph",
    "load_language_model",
    "pipeline",
    "use_cpus",
]

_MODULES = {
    "Answer": "answer",
    "Engine": "engine",
    "Generation": "answer",
    "GraphModel": "executors.graph",
    "Model": "model",
    "Options": "options",
    "Produced": "engine",
    "Stream": "generate",
    "TextGenerationPipeline": "text_generation",
    "load": "model",
    "load_graph": "executors.graph",
    "load_language_model": "model",
    "pipeline": "text_generation",
    "use_cpus": "threads",
}


def __getattr__(name: str) -> Any:
    """Everything is imported when asked for: what concerns graphs is not loaded for a language model, and a compile,
    which uses single modules of this package, neither loads nor depends on the rest."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
