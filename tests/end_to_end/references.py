"""What the logits must be: transformers, stepping as the runtime does, on a checkpoint's own file.

Nothing of xamc is used here. Where transformers has no class for a family, the checkpoint's tensors are given to
LlamaForCausalLM by hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file

F32 = NDArray[np.float32]
State = dict[str, torch.Tensor]


def stored(folder: Path) -> tuple[State, dict[str, Any]]:
    """A checkpoint's tensors and its config.json."""
    return load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())


def own_loading(folder: Path) -> Any:
    """The model as transformers loads the folder."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def as_llama(folder: Path) -> Any:
    """An InternLM 2 or 3 checkpoint as the Llama it computes.

    InternLM 2 packs wqkv as [KV heads, group + 2, head_dim, hidden]: each group's queries, its key, its value.
    """
    state, config = stored(folder)
    if config["model_type"] == "internlm2":
        state = _unpacked(state, config)
    scaling = config["rope_scaling"]
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    keys += ("vocab_size", "max_position_embeddings", "rms_norm_eps", "head_dim", "tie_word_embeddings")
    llama = transformers.LlamaConfig(
        **{key: config[key] for key in keys if key in config},
        rope_parameters={
            "rope_type": scaling.get("rope_type") or scaling["type"],
            "factor": scaling["factor"],
            "rope_theta": float(config["rope_theta"]),
        },
        attn_implementation="eager",
    )
    model = transformers.LlamaForCausalLM(llama).eval()
    model.load_state_dict(state, strict=True)
    return model


def _unpacked(state: State, config: Mapping[str, Any]) -> State:
    names = {
        "attention_norm": "input_layernorm",
        "attention.wo": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w3": "mlp.up_proj",
        "feed_forward.w2": "mlp.down_proj",
        "tok_embeddings": "embed_tokens",
    }
    kv, hidden = config["num_key_value_heads"], config["hidden_size"]
    group = config["num_attention_heads"] // kv
    unpacked: State = {}
    for name, tensor in state.items():
        if name.endswith("attention.wqkv.weight"):
            prefix = name.removesuffix("attention.wqkv.weight") + "self_attn."
            packed = tensor.view(kv, group + 2, -1, hidden)
            unpacked[prefix + "q_proj.weight"] = packed[:, :group].reshape(-1, hidden)
            unpacked[prefix + "k_proj.weight"] = packed[:, group].reshape(-1, hidden)
            unpacked[prefix + "v_proj.weight"] = packed[:, group + 1].reshape(-1, hidden)
            continue
        for theirs, ours in names.items():
            name = name.replace(f".{theirs}.", f".{ours}.")
        unpacked["lm_head.weight" if name == "output.weight" else name] = tensor
    return unpacked


@torch.no_grad()
def answers(model: Any, rows: Sequence[NDArray[np.int64]], following: NDArray[np.int64]) -> list[F32]:
    """Per row the logits [length + steps, V] of its prompt and of each following token.

    One batch, padded on the left as transformers wants it, with one DynamicCache.
    """
    width = max(map(len, rows))
    ids = np.zeros((len(rows), width), np.int64)
    mask = np.zeros((len(rows), width + following.shape[1]), np.int64)
    for row, tokens in enumerate(rows):
        ids[row, width - len(tokens) :] = tokens
        mask[row, width - len(tokens) :] = 1
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    cache = transformers.DynamicCache(config=model.config)

    def call(tokens: NDArray[np.int64], start: int) -> F32:
        stop = start + tokens.shape[1]
        result = model(
            input_ids=torch.from_numpy(tokens),
            attention_mask=torch.from_numpy(mask[:, :stop]),
            position_ids=torch.from_numpy(positions[:, start:stop]),
            past_key_values=cache,
            use_cache=True,
        )
        logits: F32 = result.logits.numpy()
        return logits

    first = call(ids, 0)
    logits = [[first[row, width - len(tokens) :]] for row, tokens in enumerate(rows)]
    for step in range(following.shape[1]):
        result = call(following[:, step : step + 1], width + step)
        for row, parts in enumerate(logits):
            parts.append(result[row])
    return [np.concatenate(parts) for parts in logits]
