"""Runs artifacts: `load(path)` gives a `Model` with `.logits`, `.generate`, `.stream` and `.chat`.

Of an artifact that holds one graph it gives a `GraphModel` with `.run`.
"""

from xamc.runtime.generate import Generation, Options, Stream
from xamc.runtime.graph import GraphModel, load_graph
from xamc.runtime.model import Model, load, load_language_model
from xamc.runtime.threads import use_cpus

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
