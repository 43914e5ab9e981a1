"""InternLM3: Llama with two bias flags, `qkv_bias` for q, k, v and `bias` for everything else."""

from __future__ import annotations

from xamc.compiler.frontends.config_reader import ConfigReader
from xamc.compiler.frontends.configuration import model_config
from xamc.compiler.frontends.tensor_source import TensorSource
from xamc.ir.weights.lazy import LazyTensor
from xamc.ir.weights.transforms import Zeros
from xamc.model.config import ModelConfig
from xamc.model.families.llama import LLAMA
from xamc.model.layer import Role
from xamc.model.parameters import parameters as all_parameters

_FLAGS: dict[Role, str] = {"query": "qkv_bias", "key": "qkv_bias", "value": "qkv_bias", "output": "bias"}


def configure(reader: ConfigReader) -> ModelConfig:
    bias = reader.flag("bias", False)
    # Llama has one flag for q, k, v and o; `parameters` gives zeros to those that have no bias in the checkpoint.
    flags = {"attention_bias": bias or reader.flag("qkv_bias", False), "mlp_bias": bias}
    return model_config(reader, LLAMA, flags=flags)


def parameters(config: ModelConfig, source: TensorSource) -> dict[str, LazyTensor]:
    tensors: dict[str, LazyTensor] = {}
    for parameter in all_parameters(config):
        flag = _FLAGS.get(parameter.part.role) if parameter.kind == "bias" else None
        absent = flag is not None and not source.raw_config.get(flag, False)
        name, shape = parameter.name, parameter.shape
        tensors[name] = Zeros(shape, "float32") if absent else source.take(name, shape)
    return tensors
