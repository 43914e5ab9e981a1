"""The compiler's unit of work between export and lowering: a graph, its weights by reference, and the config."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from xamc.ir.names import WEIGHT_ROLE
from xamc.ir.weights.lazy import LazyTensor
from xamc.model.config import ModelConfig


@dataclass
class Program:
    """An ONNX graph whose weights are graph inputs (marked in their metadata), and the tensors behind them.

    `weights` maps the name of each weight input to its tensor; shapes and dtypes agree. A weight's dtype is the
    one it is stored in; the graph casts or dequantizes to float32 right after it.
    """

    model: ir.Model
    weights: dict[str, LazyTensor]
    config: ModelConfig

    def weight_inputs(self) -> list[ir.Value]:
        """Graph inputs that are weights, in order."""
        return [value for value in self.model.graph.inputs if WEIGHT_ROLE in value.metadata_props]

    def data_inputs(self) -> list[ir.Value]:
        """Graph inputs that the runtime feeds at every call, in order."""
        return [value for value in self.model.graph.inputs if WEIGHT_ROLE not in value.metadata_props]
