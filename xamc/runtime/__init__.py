"""Runs artifacts: `load(path)` gives a `Model` with `.logits`, `.generate`, `.stream` and `.chat`."""

from xamc.runtime.generate import Generation, Stream
from xamc.runtime.model import Model, load
from xamc.runtime.sampling import Sampling

__all__ = ["Generation", "Model", "Sampling", "Stream", "load"]
