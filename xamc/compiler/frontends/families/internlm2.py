"""InternLM2 and 2.5: Llama with q, k and v packed into `wqkv`, and Meta's names for everything else."""

from __future__ import annotations

from xamc.compiler.frontends.config_reader import ConfigReader
from xamc.compiler.frontends.configuration import model_config
from xamc.compiler.frontends.tensor_source import TensorSource
from xamc.ir.weights.lazy import LazyTensor, RowRanges
from xamc.model.config import ModelConfig
from xamc.model.families.llama import LLAMA
from xamc.model.layer import HEAD, Role
from xamc.model.parameters import layer_name
from xamc.model.parameters import parameters as all_parameters

HEAD_NAME = f"{HEAD.meta}.weight"


def configure(reader: ConfigReader) -> ModelConfig:
    return model_config(reader, LLAMA, flags={"attention_bias": reader.flag("bias", True)})


def parameters(config: ModelConfig, source: TensorSource) -> dict[str, LazyTensor]:
    group, width = config.num_heads // config.num_kv_heads, config.head_dim
    # wqkv is [kv_head, group + 2, head_dim]: a group's queries, its key, its value
    packed: dict[Role, tuple[int, int]] = {"query": (0, group), "key": (group, 1), "value": (group + 1, 1)}
    tensors: dict[str, LazyTensor] = {}
    for parameter in all_parameters(config):
        part, prefix = parameter.part, "model" if parameter.layer is None else layer_name(parameter.layer)
        if part.role in packed:
            shape = (config.num_kv_heads * (group + 2) * width, *parameter.shape[1:])
            wqkv = source.take(f"{prefix}.attention.wqkv.{parameter.kind}", shape)
            first, count = packed[part.role]
            heads = (head * (group + 2) + first for head in range(config.num_kv_heads))
            rows = tuple((head * width, (head + count) * width) for head in heads)
            tensors[parameter.name] = RowRanges(wqkv, rows)
        else:
            name = HEAD_NAME if part is HEAD else f"{prefix}.{part.meta}.{parameter.kind}"
            tensors[parameter.name] = source.take(name, parameter.shape)
    return tensors
