"""Runs artifacts: `load(path)` gives a `Model` with `.logits`, `.generate`, `.stream` and `.chat`."""

from xamc.runtime.generate import Generation, Options, Stream
from xamc.runtime.model import Model, load

__all__ = ["Generation", "Model", "Options", "Stream", "load"]
