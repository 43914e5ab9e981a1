"""InternLM2 and 2.5: Llama with q, k and v packed into `wqkv`, and Meta's names w1 (gate), w3 (up), w2 (down)."""

from __future__ import annotations

from xamc.compiler.frontends.configuration import ConfigReader, model_config
from xamc.compiler.frontends.tensor_source import TensorSource
from xamc.ir.weights.lazy import LazyTensor, RowRanges
from xamc.model.config import ModelConfig
from xamc.model.parameters import parameter_shapes

HEAD_NAME = "output.weight"
_NAMES = {
    "model.embed_tokens": "model.tok_embeddings",
    "model.norm": "model.norm",
    "lm_head": "output",
    "input_layernorm": "attention_norm",
    "self_attn.o_proj": "attention.wo",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
}


def configure(reader: ConfigReader) -> ModelConfig:
    return model_config(
        reader,
        "LlamaForCausalLM",
        bos_token_id=1,
        eos_token_id=2,
        extra={"attention_bias": reader.flag("bias", True), "mlp_bias": False},
    )


def parameters(config: ModelConfig, source: TensorSource) -> dict[str, LazyTensor]:
    tensors: dict[str, LazyTensor] = {}
    for name, shape in parameter_shapes(config).items():
        module, _, kind = name.rpartition(".")
        prefix, inner = "", module
        if module.startswith("model.layers."):
            layer, _, inner = module.removeprefix("model.layers.").partition(".")
            prefix = f"model.layers.{layer}."
        if inner in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
            packed = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
            wqkv = source.take(f"{prefix}attention.wqkv.{kind}", (packed, *shape[1:]))
            tensors[name] = RowRanges(wqkv, _rows(config, inner[10]))
        else:
            tensors[name] = source.take(f"{prefix}{_NAMES[inner]}.{kind}", shape)
    return tensors


def _rows(config: ModelConfig, part: str) -> tuple[tuple[int, int], ...]:
    """Rows of q, k or v in wqkv, which is [kv_head, group + 2, head_dim]: a group's queries, its key, its value."""
    group, width = config.num_heads // config.num_kv_heads, config.head_dim
    first, count = {"q": (0, group), "k": (group, 1), "v": (group + 1, 1)}[part]
    heads = (head * (group + 2) + first for head in range(config.num_kv_heads))
    return tuple((head * width, (head + count) * width) for head in heads)
