"""Llama 1 to 3, and everything published under its name (SmolLM2, TinyLlama, Yi)."""

from __future__ import annotations

from xamc.compiler.frontends.configuration import ConfigReader, model_config
from xamc.compiler.frontends.tensor_source import TensorSource
from xamc.ir.weights.lazy import LazyTensor
from xamc.model.config import ModelConfig
from xamc.model.parameters import parameter_shapes


def configure(reader: ConfigReader) -> ModelConfig:
    return model_config(
        reader,
        "LlamaForCausalLM",
        bos_token_id=1,
        eos_token_id=2,
        extra={"attention_bias": reader.flag("attention_bias", False), "mlp_bias": reader.flag("mlp_bias", False)},
    )


def parameters(config: ModelConfig, source: TensorSource) -> dict[str, LazyTensor]:
    return {name: source.take(name, shape) for name, shape in parameter_shapes(config).items()}
