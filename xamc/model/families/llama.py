"""Llama 1 to 3, everything published under its name (SmolLM2, TinyLlama, Yi), and what InternLM 1 to 3 compute."""

from __future__ import annotations

from xamc.model.layer import Family, GgufArchitecture, Layer, Part


def llama_layer(
    *, qkv_bias: bool | str = False, o_bias: bool | str = False, mlp_bias: bool | str = False, qk_norm: bool = False
) -> Layer:
    """Llama's layer, of which other families have variants; for biases see `Part.bias`."""
    qk_norms = (
        Part("norm", "self_attn.q_norm", ("head_dim",), "attn_q_norm"),
        Part("norm", "self_attn.k_norm", ("head_dim",), "attn_k_norm"),
    )
    return Layer(
        (
            Part("norm", "input_layernorm", ("hidden",), "attn_norm", "attention_norm"),
            Part("query", "self_attn.q_proj", ("head", "hidden"), "attn_q", "attention.wq", qkv_bias),
            Part("key", "self_attn.k_proj", ("kv_head", "hidden"), "attn_k", "attention.wk", qkv_bias),
            Part("value", "self_attn.v_proj", ("kv_head", "hidden"), "attn_v", "attention.wv", qkv_bias),
            Part("output", "self_attn.o_proj", ("hidden", "head"), "attn_output", "attention.wo", o_bias),
            Part("gate", "mlp.gate_proj", ("intermediate", "hidden"), "ffn_gate", "feed_forward.w1", mlp_bias),
            Part("up", "mlp.up_proj", ("intermediate", "hidden"), "ffn_up", "feed_forward.w3", mlp_bias),
            Part("down", "mlp.down_proj", ("hidden", "intermediate"), "ffn_down", "feed_forward.w2", mlp_bias),
            *(qk_norms if qk_norm else ()),
            Part("norm", "post_attention_layernorm", ("hidden",), "ffn_norm", "ffn_norm"),
        )
    )


LLAMA = Family(
    "llama",
    "LlamaForCausalLM",
    llama_layer(qkv_bias="attention_bias", o_bias="attention_bias", mlp_bias="mlp_bias"),
    gguf=(
        GgufArchitecture("llama", interleaved=True, rope_divisors=True),
        GgufArchitecture("internlm2", interleaved=True),
    ),
    defaults={"bos_token_id": 1, "eos_token_id": 2},
)
