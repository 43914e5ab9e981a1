"""Tiny GGUF files, written by the gguf package in llama.cpp's names and row order from a Hugging Face checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


# Where a block's float16 numbers lie.
_FLOAT16_AT = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}
_ONE_SCALE = ("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "IQ4_XS")


def random_blocks(kind: str, rows: int, blocks: int) -> np.ndarray:
    """[rows, bytes] of random blocks of the ggml type `kind`, whose scales are finite."""
    _, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    raw = np.random.default_rng(0).integers(0, 256, (rows, blocks, size), dtype=np.uint8)
    for at in _FLOAT16_AT.get(kind, (0,) if kind in _ONE_SCALE else (0, 2)):
        raw[:, :, at + 1] &= 0xBF  # clears the exponent's top bit
    return raw.reshape(rows, blocks * size)


def permute(rows: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to q and k of Llama: the halves of a head become neighbouring rows."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def llama_names(name: str) -> str:
    module, _, kind = name.rpartition(".")
    if module in NAMES:
        return f"{NAMES[module]}.{kind}"
    _, _, layer, inner = module.split(".", 3)
    return f"blk.{layer}.{NAMES[inner]}.{kind}"


def write_gguf(
    path: Path,
    folder: Path,
    *,
    kind: str = "F32",
    metadata: dict[str, Any] | None = None,
    adjust: Callable[[dict[str, np.ndarray]], None] | None = None,
) -> dict[str, np.ndarray]:
    """Converts the tiny llama, qwen2 or qwen3 checkpoint in `folder`; returns what was stored, by transformers' names.

    Args:
        path: the file to write.
        folder: a checkpoint of `tests.checkpoints`.
        kind: ggml type of the matrices; random ones for a type that the gguf package can't write.
        metadata: keys to add or replace; None leaves a key out.
        adjust: changes the tensors by llama.cpp's names before they are written.
    """
    config = json.loads((folder / "config.json").read_text())
    architecture = config["model_type"]
    state = load_file(folder / "model.safetensors")
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    tokens = ["<unk>", "<s>", "</s>", "a", "b", "ab", "Ġ", "Ċ"]
    values: dict[str, Any] = {
        "context_length": config["max_position_embeddings"],
        "block_count": config["num_hidden_layers"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": kv,
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": float(config.get("rope_theta", 10000.0)),
        "attention.key_length": config.get("head_dim", config["hidden_size"] // heads),
    }
    meta: dict[str, Any] = {f"{architecture}.{key}": value for key, value in values.items()} | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 1, 1],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        **(metadata or {}),
    }
    writer = gguf.GGUFWriter(path, meta.get("general.architecture", architecture))
    for key, value in meta.items():
        if key == "general.architecture" or value is None:
            continue
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif value < 0:
            writer.add_int32(key, value)
        else:
            writer.add_uint32(key, value)
    tensors: dict[str, np.ndarray] = {}
    for name, array in state.items():
        if architecture == "llama" and (".q_proj." in name or ".k_proj." in name):
            array = permute(array, heads if ".q_proj." in name else kv)
        tensors[llama_names(name)] = array
    if adjust:
        adjust(tensors)
    written: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        number = gguf.GGMLQuantizationType[kind if array.ndim == 2 else "F32"]
        try:
            data = gguf.quants.quantize(np.ascontiguousarray(array, np.float32), number)
        except NotImplementedError:  # the package reads this type and doesn't write it
            data = random_blocks(kind, len(array), array.shape[1] // gguf.GGML_QUANT_SIZES[number][0])
        writer.add_tensor(name, data, raw_shape=data.shape, raw_dtype=number)
        written[name] = gguf.quants.dequantize(data, number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written
