"""The parameters that a transformers class has, with their shapes."""

from __future__ import annotations

from xamc.model.config import ModelConfig

Shape = tuple[int, ...]


def attention_biases(config: ModelConfig) -> tuple[bool, bool]:
    """Whether q/k/v and o have a bias in the transformers class (Qwen2 hard-codes it, Llama and Qwen3 have a flag)."""
    if config.architecture == "Qwen2ForCausalLM":
        return True, False
    flag = bool(config.hf_config.get("attention_bias", False))
    return flag, flag


def layer_shapes(config: ModelConfig, layer: int) -> dict[str, Shape]:
    """Parameter name → shape of one decoder layer, linear weights as [out, in]."""
    prefix = f"model.layers.{layer}."
    hidden, width = config.hidden_size, config.head_dim
    q, kv, inner = config.num_heads * width, config.num_kv_heads * width, config.intermediate_size
    qkv_bias, o_bias = attention_biases(config)
    mlp_bias = bool(config.hf_config.get("mlp_bias", False))
    shapes: dict[str, Shape] = {prefix + "input_layernorm.weight": (hidden,)}
    for name, rows, columns, bias in (
        ("self_attn.q_proj", q, hidden, qkv_bias),
        ("self_attn.k_proj", kv, hidden, qkv_bias),
        ("self_attn.v_proj", kv, hidden, qkv_bias),
        ("self_attn.o_proj", hidden, q, o_bias),
        ("mlp.gate_proj", inner, hidden, mlp_bias),
        ("mlp.up_proj", inner, hidden, mlp_bias),
        ("mlp.down_proj", hidden, inner, mlp_bias),
    ):
        shapes[f"{prefix}{name}.weight"] = (rows, columns)
        if bias:
            shapes[f"{prefix}{name}.bias"] = (rows,)
    if config.qk_norm:
        shapes[prefix + "self_attn.q_norm.weight"] = (width,)
        shapes[prefix + "self_attn.k_norm.weight"] = (width,)
    shapes[prefix + "post_attention_layernorm.weight"] = (hidden,)
    return shapes


def parameter_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Parameter name → shape of the whole model, in the order of a forward pass."""
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": (config.vocab_size, config.hidden_size)}
    for layer in range(config.num_layers):
        shapes |= layer_shapes(config, layer)
    shapes["model.norm.weight"] = (config.hidden_size,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, config.hidden_size)
    return shapes
