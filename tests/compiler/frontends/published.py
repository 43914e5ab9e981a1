"""InternLM 1 and 2 in plain torch, written from their published descriptions, reading the checkpoint's own tensors.

The reference for the families' mapping, so it shares nothing with it: no transformers model, nothing of xamc. The
descriptions are modeling_internlm.py and modeling_internlm2.py of the model cards and section 2 of the InternLM2
technical report (arXiv 2403.17297): pre-norm decoder, RMSNorm, rotary embedding on halves, SwiGLU; InternLM 2 packs
the projections as wqkv [n_kv, group + 2, head_dim, hidden], in each group the queries, then the key, then the value.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, silu, softmax

State = dict[str, Tensor]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def rotate(x: Tensor, base: float) -> Tensor:
    """Rotary embedding of [B, heads, S, D] at positions 0 to S - 1."""
    width, length = x.shape[-1], x.shape[-2]
    frequency = base ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    angle = torch.arange(length, dtype=torch.float32)[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    first, second = x[..., : width // 2], x[..., width // 2 :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def dynamic_base(config: dict[str, Any], base: float, factor: float, length: int, width: int) -> float:
    """NTK-aware base of a sequence of `length`, which grows beyond max_position_embeddings."""
    limit = config["max_position_embeddings"]
    if length <= limit:
        return base
    return float(base * ((factor * length / limit) - (factor - 1)) ** (width / (width - 2)))


def attend(q: Tensor, k: Tensor, v: Tensor, base: float) -> Tensor:
    """Causal grouped-query attention: query head h reads key head h // group. [B, S, heads * D]."""
    group, length = q.shape[1] // k.shape[1], q.shape[2]
    q, k = rotate(q, base), rotate(k, base)
    k, v = (torch.stack([x[:, head // group] for head in range(q.shape[1])], dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(torch.triu(torch.ones(length, length, dtype=torch.bool), 1), float("-inf"))
    out = softmax(scores, dim=-1) @ v
    return out.transpose(1, 2).flatten(2)


def internlm(state: State, config: dict[str, Any], ids: Tensor) -> Tensor:
    """Logits [B, S, V] of InternLM 1: separate projections with biases, multi-head attention."""
    heads, eps = config["num_attention_heads"], config["rms_norm_eps"]
    rotary = config.get("rotary", {"base": 10000.0})
    x = state["model.embed_tokens.weight"][ids]
    width = x.shape[-1] // heads
    base = rotary["base"]
    if rotary.get("type") == "dynamic":
        base = dynamic_base(config, base, rotary.get("scaling_factor", 1.0), ids.shape[1], width)

    def project(name: str, value: Tensor) -> Tensor:
        return linear(value, state[name + ".weight"], state.get(name + ".bias"))

    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        h = rms_norm(x, state[p + "input_layernorm.weight"], eps)
        q, k, v = (
            project(f"{p}self_attn.{n}_proj", h).unflatten(-1, (heads, width)).transpose(1, 2) for n in ("q", "k", "v")
        )
        x = x + project(p + "self_attn.o_proj", attend(q, k, v, base))
        h = rms_norm(x, state[p + "post_attention_layernorm.weight"], eps)
        x = x + project(p + "mlp.down_proj", silu(project(p + "mlp.gate_proj", h)) * project(p + "mlp.up_proj", h))
    return linear(rms_norm(x, state["model.norm.weight"], eps), state["lm_head.weight"])


def internlm2(state: State, config: dict[str, Any], ids: Tensor) -> Tensor:
    """Logits [B, S, V] of InternLM 2 and 2.5: packed wqkv, grouped-query attention, w2(silu(w1 x) * w3 x)."""
    heads, kv, eps = config["num_attention_heads"], config["num_key_value_heads"], config["rms_norm_eps"]
    x = state["model.tok_embeddings.weight"][ids]
    width = x.shape[-1] // heads
    base = float(config.get("rope_theta", 10000.0))
    scaling = config.get("rope_scaling") or {}
    if scaling.get("type") == "dynamic":
        base = dynamic_base(config, base, scaling["factor"], ids.shape[1], width)

    def project(name: str, value: Tensor) -> Tensor:
        return linear(value, state[name + ".weight"], state.get(name + ".bias"))

    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        h = rms_norm(x, state[p + "attention_norm.weight"], eps)
        packed = project(p + "attention.wqkv", h).unflatten(-1, (kv, heads // kv + 2, width))
        q = packed[..., :-2, :].flatten(2, 3).transpose(1, 2)
        k, v = packed[..., -2, :].transpose(1, 2), packed[..., -1, :].transpose(1, 2)
        x = x + project(p + "attention.wo", attend(q, k, v, base))
        h = rms_norm(x, state[p + "ffn_norm.weight"], eps)
        gated = silu(linear(h, state[p + "feed_forward.w1.weight"])) * linear(h, state[p + "feed_forward.w3.weight"])
        x = x + linear(gated, state[p + "feed_forward.w2.weight"])
    return linear(rms_norm(x, state["model.norm.weight"], eps), state["output.weight"])
