"""Writes synthetic checkpoints: a published model's config, tensor names and sizes, random weights, a small tokenizer.

    python tools/make_checkpoint.py --shape internlm3-8b --out DIR

Weights are written in blocks, so that an 8B model needs little memory; they are random but sane (unit
variance is kept through every layer), which is what timing, memory and numeric tests need. Tensor names and the
packing of InternLM2's wqkv are those of the published checkpoints.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from xamc.model.families import FAMILIES
from xamc.model.families.llama import llama_layer
from xamc.model.layer import EMBEDDING, FINAL_NORM, HEAD, Layer, Part, Size
from xamc.model.parameters import layer_name

Shape = tuple[int, ...]
BLOCK_ITEMS = 4 * 2**20
DTYPES: Mapping[str, tuple[str, Any]] = {
    "float32": ("F32", np.float32),
    "float16": ("F16", np.float16),
    "bfloat16": ("BF16", ml_dtypes.bfloat16),
}


def _config(model_type: str, name: str, **values: Any) -> dict[str, Any]:
    common = {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }
    return {"architectures": [name], "model_type": model_type, **common, **values}


def _sizes(hidden: int, inner: int, layers: int, heads: int, kv: int, vocab: int, positions: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocab,
        "max_position_embeddings": positions,
    }


# Sizes and rotary settings as published.
SHAPES: Mapping[str, dict[str, Any]] = {
    "internlm3-8b": _config(
        "internlm3",
        "InternLM3ForCausalLM",
        **_sizes(4096, 10240, 48, 32, 2, 128512, 32768),
        head_dim=128,
        qkv_bias=False,
        bias=False,
        rope_theta=50000000,
        rope_scaling={"rope_type": "dynamic", "factor": 6.0},
    ),
    "internlm2_5-7b": _config(
        "internlm2",
        "InternLM2ForCausalLM",
        **_sizes(4096, 14336, 32, 32, 8, 92544, 32768),
        bias=False,
        rope_theta=1000000,
        rope_scaling={"type": "dynamic", "factor": 2.0},
    ),
    "internlm2-1.8b": _config(
        "internlm2",
        "InternLM2ForCausalLM",
        **_sizes(2048, 8192, 24, 16, 8, 92544, 32768),
        bias=False,
        rope_theta=1000000,
        rope_scaling={"type": "dynamic", "factor": 2.0},
    ),
    "internlm-7b": _config(
        "internlm",
        "InternLMForCausalLM",
        **{k: v for k, v in _sizes(4096, 11008, 32, 32, 32, 103168, 2048).items() if k != "num_key_value_heads"},
        bias=True,
        rms_norm_eps=1e-6,
    ),
    "tinyllama-1.1b": _config(
        "llama", "LlamaForCausalLM", **_sizes(2048, 5632, 22, 32, 4, 32000, 2048), rope_theta=10000.0
    ),
    "qwen2.5-0.5b": _config(
        "qwen2",
        "Qwen2ForCausalLM",
        **_sizes(896, 4864, 24, 14, 2, 151936, 32768)
        | {"tie_word_embeddings": True, "rms_norm_eps": 1e-6, "bos_token_id": 151643, "eos_token_id": 151643},
        rope_theta=1000000.0,
        use_sliding_window=False,
        sliding_window=32768,
        max_window_layers=24,
    ),
    "qwen3-0.6b": _config(
        "qwen3",
        "Qwen3ForCausalLM",
        **_sizes(1024, 3072, 28, 16, 8, 151936, 40960)
        | {"tie_word_embeddings": True, "rms_norm_eps": 1e-6, "bos_token_id": 151643, "eos_token_id": 151645},
        head_dim=128,
        attention_bias=False,
        rope_theta=1000000.0,
        use_sliding_window=False,
        sliding_window=None,
        max_window_layers=28,
    ),
    "mistral-7b": _config(
        "mistral",
        "MistralForCausalLM",
        **_sizes(4096, 14336, 32, 32, 8, 32000, 32768),
        sliding_window=4096,
        rope_theta=10000.0,
    ),
}


# model_type → layer as it is stored, with biases by the keys of its own config.json
STORED: Mapping[str, Layer] = {
    "internlm": llama_layer(qkv_bias="bias", o_bias="bias"),
    "internlm2": llama_layer(qkv_bias="bias", o_bias="bias"),
    "internlm3": llama_layer(qkv_bias="qkv_bias", o_bias="bias", mlp_bias="bias"),
}


def tensor_layout(config: Mapping[str, Any]) -> dict[str, Shape]:
    """Tensor name → shape of a published checkpoint with this config.json, in file order."""
    heads, kind = config["num_attention_heads"], config["model_type"]
    kv = config.get("num_key_value_heads", heads)
    width = config.get("head_dim") or config["hidden_size"] // heads
    sizes: dict[Size, int] = {
        "hidden": config["hidden_size"],
        "head_dim": width,
        "head": heads * width,
        "kv_head": kv * width,
        "intermediate": config["intermediate_size"],
        "vocab": config["vocab_size"],
    }
    packed, biased = kind == "internlm2", kind in ("internlm", "internlm2")
    layers = {**{family.model_type: family.layer for family in FAMILIES.values()}, **STORED}
    layout: dict[str, Shape] = {}

    def add(part: Part, prefix: str) -> None:
        name, rows, *columns = part.meta if packed else part.name, *(sizes[axis] for axis in part.axes)
        if packed and part.role == "query":
            name, rows = "attention.wqkv", (heads + 2 * kv) * width
        elif packed and part.role in ("key", "value"):
            return
        layout[f"{prefix}{name}.weight"] = (rows, *columns)
        if part.bias is True or (part.bias and config.get(part.bias, biased)):
            layout[f"{prefix}{name}.bias"] = (rows,)

    add(EMBEDDING, "model." if packed else "")
    for layer in range(config["num_hidden_layers"]):
        for part in layers[kind].parts:
            add(part, f"{layer_name(layer)}.")
        if kind == "internlm":
            layout[f"{layer_name(layer)}.self_attn.rotary_emb.inv_freq"] = (width // 2,)
    add(FINAL_NORM, "model." if packed else "")
    if not config.get("tie_word_embeddings", False):
        add(HEAD, "")
    return layout


def spread(name: str, shape: Shape, layers: int) -> tuple[float, float]:
    """Mean and standard deviation: norms near 1, matrices that keep unit variance, residual branches damped."""
    if name.endswith("norm.weight"):
        return 1.0, 0.1
    if len(shape) == 1:
        return 0.0, 0.1
    scale = 1.0 if "embed" in name else 1 / math.sqrt(shape[1])
    if name.endswith(("o_proj.weight", "wo.weight", "down_proj.weight", "w2.weight")):
        scale /= math.sqrt(2 * layers)
    if name.endswith(("q_proj.weight", "k_proj.weight", "wqkv.weight")):
        scale *= 1.5  # attention that prefers some positions, so that a wrong mask or rotation shows
    return 0.0, scale


@lru_cache(maxsize=8)
def pool(mean: float, scale: float, dtype: str, seed: int) -> NDArray[Any]:
    """`BLOCK_ITEMS` normal values; large tensors are made of turns of it, which is as fast as the disk."""
    values = np.random.Generator(np.random.SFC64(seed)).standard_normal(BLOCK_ITEMS, dtype=np.float32)
    return (values * np.float32(scale) + np.float32(mean)).astype(DTYPES[dtype][1])


def draw(name: str, shape: Shape, layers: int, dtype: str, seed: int) -> Iterator[NDArray[Any]]:
    """The tensor's values in blocks; they depend on seed and name alone, so shard sizes don't change the model."""
    mean, scale = spread(name, shape, layers)
    generator = np.random.Generator(np.random.SFC64([seed, *name.encode()]))
    left = math.prod(shape)
    if left < BLOCK_ITEMS // 4:
        values = generator.standard_normal(left, dtype=np.float32) * np.float32(scale) + np.float32(mean)
        yield values.astype(DTYPES[dtype][1])
        return
    source = pool(mean, scale, dtype, seed)
    while left:
        start = int(generator.integers(BLOCK_ITEMS))
        block = source[start : start + left]
        yield block
        left -= len(block)


def split(layout: Mapping[str, Shape], item_bytes: int, shard_bytes: int) -> list[list[str]]:
    """Names per shard, in order, each shard at most `shard_bytes` (or one tensor)."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in layout.items():
        size = math.prod(shape) * item_bytes
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def safetensors_header(names: list[str], layout: Mapping[str, Shape], dtype: str) -> bytes:
    """What a safetensors file of these tensors begins with; their data follow without gaps."""
    label, number = DTYPES[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        size = math.prod(layout[name]) * np.dtype(number).itemsize
        header[name] = {"dtype": label, "shape": list(layout[name]), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_shard(
    stream: BinaryIO, names: list[str], layout: Mapping[str, Shape], dtype: str, layers: int, seed: int
) -> None:
    """One safetensors file, its header first."""
    stream.write(safetensors_header(names, layout, dtype))
    for name in names:
        for block in draw(name, layout[name], layers, dtype, seed):
            stream.write(block.tobytes())


def tokenizer_json() -> bytes:
    """A byte-level tokenizer: three special tokens, then the 256 bytes; encodes and decodes any text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    special = ["<unk>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(special + alphabet)}, merges=[]))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text: str = tokenizer.to_str()
    return text.encode()


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    *,
    dtype: str = "float16",
    seed: int = 0,
    shard_bytes: int = 2 * 10**9,
    progress: bool = False,
) -> Path:
    """Writes a whole checkpoint folder.

    Args:
        folder: created when absent; existing files of the same names are replaced.
        config: the content of config.json.
        dtype: float32, float16 or bfloat16.
        seed: of the weights.
        shard_bytes: largest shard; one file without an index when everything fits.
        progress: whether to tell on stderr how far it is.
    """
    layout = tensor_layout(config)
    shards = split(layout, np.dtype(DTYPES[dtype][1]).itemsize, shard_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        single = len(shards) == 1
        file = "model.safetensors" if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        started = time.monotonic()
        with (folder / file).open("wb") as stream:
            write_shard(stream, names, layout, dtype, config["num_hidden_layers"], seed)
            size = stream.tell()
        weight_map |= dict.fromkeys(names, file)
        if progress:
            print(f"{file}  {size / 1e9:.2f} GB  {time.monotonic() - started:.0f} s", file=sys.stderr)
    if len(shards) > 1:
        total = sum(math.prod(s) for s in layout.values()) * np.dtype(DTYPES[dtype][1]).itemsize
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": dtype}, indent=2))
    (folder / "tokenizer.json").write_bytes(tokenizer_json())
    special = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(special, indent=2))
    return folder


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description="Write a synthetic checkpoint of a published model's shape.")
    parser.add_argument("--shape", required=True, choices=sorted(SHAPES))
    parser.add_argument("--out", required=True, type=Path, help="folder to write into")
    parser.add_argument("--dtype", default="float16", choices=sorted(DTYPES))
    parser.add_argument("--layers", type=int, help="fewer layers than published")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard-gb", type=float, default=2.0)
    options = parser.parse_args()
    config = dict(SHAPES[options.shape])
    if options.layers:
        config["num_hidden_layers"] = options.layers
    items = sum(math.prod(shape) for shape in tensor_layout(config).values())
    print(f"{options.shape}: {items / 1e9:.2f} B parameters as {options.dtype} in {options.out}", file=sys.stderr)
    write_checkpoint(
        options.out,
        config,
        dtype=options.dtype,
        seed=options.seed,
        shard_bytes=int(options.shard_gb * 1e9),
        progress=True,
    )


if __name__ == "__main__":
    main()
