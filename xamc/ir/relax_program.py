"""What lowering yields: a Relax module whose parameters are named, with the weights still by reference."""

from __future__ import annotations

from dataclasses import dataclass

import tvm

from xamc.ir.weights.lazy import LazyTensor
from xamc.model.config import ModelConfig


@dataclass
class RelaxProgram:
    """A module with one function `main`.

    `main` takes the data inputs, then the caches, then the weights named in `weights`, each as a tensor parameter
    whose name hint is the graph's name, and returns a tuple: logits, then the caches after the step.
    """

    module: tvm.IRModule
    weights: dict[str, LazyTensor]
    config: ModelConfig
