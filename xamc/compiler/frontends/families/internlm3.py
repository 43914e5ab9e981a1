"""InternLM3: Llama with two bias flags, `qkv_bias` for q, k, v and `bias` for everything else."""

from __future__ import annotations

from xamc.compiler.frontends.configuration import ConfigReader, model_config
from xamc.compiler.frontends.tensor_source import TensorSource
from xamc.ir.weights.lazy import LazyTensor
from xamc.ir.weights.transforms import Zeros
from xamc.model.config import ModelConfig
from xamc.model.parameters import parameter_shapes


def configure(reader: ConfigReader) -> ModelConfig:
    bias = reader.flag("bias", False)
    # Llama has one flag for q, k, v and o; `parameters` gives zeros to those that have no bias in the checkpoint.
    extra = {"attention_bias": bias or reader.flag("qkv_bias", False), "mlp_bias": bias}
    return model_config(reader, "LlamaForCausalLM", bos_token_id=1, eos_token_id=2, extra=extra)


def parameters(config: ModelConfig, source: TensorSource) -> dict[str, LazyTensor]:
    stored = {"q_proj": "qkv_bias", "k_proj": "qkv_bias", "v_proj": "qkv_bias", "o_proj": "bias"}
    tensors: dict[str, LazyTensor] = {}
    for name, shape in parameter_shapes(config).items():
        flag = stored.get(name.split(".")[-2]) if name.endswith(".bias") else None
        absent = flag is not None and not source.raw_config.get(flag, False)
        tensors[name] = Zeros(shape, "float32") if absent else source.take(name, shape)
    return tensors
