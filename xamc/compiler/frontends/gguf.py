"""GGUF checkpoints: llama.cpp's metadata and tensor names mapped to a transformers class."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from xamc.compiler.contract import ModelConfig, RopeConfig
from xamc.compiler.errors import InputError, UnsupportedError
from xamc.compiler.frontends.chat_defaults import with_stop
from xamc.compiler.frontends.checkpoint import KEYS, Checkpoint, GenerationDefaults
from xamc.compiler.frontends.configuration import ConfigReader, model_config, rope_parameters
from xamc.compiler.frontends.gguf_file import GgufFile, read_gguf
from xamc.compiler.frontends.gguf_rope import read_gguf_rope
from xamc.compiler.frontends.gguf_tokenizer import tokenizer_files
from xamc.compiler.frontends.parameters import TensorSource, parameter_shapes
from xamc.compiler.weights.lazy import LazyTensor
from xamc.compiler.weights.transforms import UninterleaveHeads, Zeros

# llama.cpp architecture → (transformers class, whether q and k rows are stored as interleaved pairs).
ARCHITECTURES: Mapping[str, tuple[str, bool]] = {
    "llama": ("LlamaForCausalLM", True),
    "internlm2": ("LlamaForCausalLM", True),
    "qwen2": ("Qwen2ForCausalLM", False),
    "qwen3": ("Qwen3ForCausalLM", False),
}

# transformers' module name inside a layer → llama.cpp's.
_LAYER_MODULES = {
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
_MODEL_MODULES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(parameter: str) -> str:
    """llama.cpp's name of a transformers parameter: ``model.layers.3.mlp.up_proj.weight`` → ``blk.3.ffn_up.weight``."""
    module, _, kind = parameter.rpartition(".")
    if module in _MODEL_MODULES:
        return f"{_MODEL_MODULES[module]}.{kind}"
    layer, _, inner = module.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_LAYER_MODULES[inner]}.{kind}"


def open_gguf(path: Path) -> Checkpoint:
    """Opens the GGUF file `path`, or the only one in the folder `path`.

    Raises:
        InputError: E1101, E1104, E1120–E1122, E1130, E1131, E1140.
        InputError: E1106; UnsupportedError: E1105, E1107, E1132–E1134.
    """
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if len(files) != 1:
            raise InputError(
                "E1101", f"{path} holds {len(files)} GGUF files", "set frontend.checkpoint to the one file", keys=KEYS
            )
        path = files[0]
    file = read_gguf(path)
    config = read_config(file)
    source = TensorSource(file.tensors, lambda name: path, path, _harmless)
    tensors = map_parameters(config, source)
    unused = source.finish()
    tokenizer, chat_template, stop = tokenizer_files(file, config.vocab_size, config.model_type)
    if stop is not None:
        config = with_stop(config, stop)
    return Checkpoint(
        path=path,
        config=config,
        tensors=tensors,
        tokenizer=tokenizer,
        chat_template=chat_template,
        generation=GenerationDefaults(),
        files=(path,),
        unused_tensors=unused,
    )


def _harmless(name: str) -> bool:
    return name == "rope_freqs.weight"


def read_config(file: GgufFile) -> ModelConfig:
    """The model that the metadata of `file` describes.

    Raises:
        InputError: E1104, a missing or mistyped value.
        InputError: E1106; UnsupportedError: E1105, E1107, E1133.
    """
    meta, path = file.metadata, file.path
    architecture = meta.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        close = difflib.get_close_matches(str(architecture), ARCHITECTURES, n=2, cutoff=0.3)
        raise UnsupportedError(
            "E1105",
            f"{path}: general.architecture {architecture!r} is not supported",
            f"closest supported: {', '.join(close or ARCHITECTURES)}",
        )
    reader = ConfigReader(meta, path)
    if reader.integer("split.count", 0, low=0) > 1:
        raise UnsupportedError(
            "E1133", f"{path} is one part of a split GGUF", "merge the parts with llama-gguf-split --merge"
        )
    prefix = architecture + "."
    context = reader.integer(prefix + "context_length")
    window = reader.integer(prefix + "attention.sliding_window", 0, low=0)
    if 0 < window < context:
        raise UnsupportedError(
            "E1107",
            f"{path}: {prefix}attention.sliding_window {window} is not supported in GGUF",
            "use the original safetensors checkpoint",
        )
    heads = reader.integer(prefix + "attention.head_count")
    head_dim = reader.integer(prefix + "attention.key_length", 0, low=0)
    rotated = reader.integer(prefix + "rope.dimension_count", head_dim, low=0)
    if head_dim and rotated != head_dim:
        raise InputError(
            "E1106",
            f"{path}: {prefix}rope.dimension_count rotates {rotated} of {head_dim} dimensions of a head",
            "only full rotary embeddings are supported",
        )
    embedding = file.tensors.get("token_embd.weight")
    name, _ = ARCHITECTURES[architecture]
    extra: dict[str, Any] = {}
    if name != "Qwen2ForCausalLM":
        extra["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
    if name == "LlamaForCausalLM":
        extra["mlp_bias"] = "blk.0.ffn_up.bias" in file.tensors
    values = {
        "model_type": architecture,
        "hidden_size": reader.integer(prefix + "embedding_length"),
        "intermediate_size": reader.integer(prefix + "feed_forward_length"),
        "num_hidden_layers": reader.integer(prefix + "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": reader.integer(prefix + "attention.head_count_kv", heads),
        "head_dim": rotated,
        "max_position_embeddings": context,
        "rms_norm_eps": reader.number(prefix + "attention.layer_norm_rms_epsilon"),
        "vocab_size": embedding.shape[0] if embedding else reader.integer(prefix + "vocab_size"),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": meta.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": _end_tokens(meta),
    }
    config = model_config(
        ConfigReader(values, path),
        name,
        rope=RopeConfig("default", 10000.0),
        qk_norm="blk.0.attn_q_norm.weight" in file.tensors,
        extra=extra,
    )
    rope = read_gguf_rope(reader, prefix, file.tensors.get("rope_freqs.weight"), config.head_dim)
    return replace(config, rope=rope, hf_config={**config.hf_config, "rope_parameters": rope_parameters(rope)})


def _end_tokens(meta: Mapping[str, Any]) -> list[Any]:
    """All ids that end a generation: end of sequence, of turn, of message."""
    ids: list[Any] = []
    for key in ("eos_token_id", "eot_token_id", "eom_token_id"):
        value = meta.get(f"tokenizer.ggml.{key}")
        if value is not None and value not in ids:
            ids.append(value)
    return ids


def map_parameters(config: ModelConfig, source: TensorSource) -> dict[str, LazyTensor]:
    """Parameters by transformers name, q and k back in transformers' row order."""
    _, interleaved = ARCHITECTURES[config.model_type]
    tensors: dict[str, LazyTensor] = {}
    for parameter, shape in parameter_shapes(config).items():
        name = gguf_name(parameter)
        if parameter.endswith("o_proj.bias") and name not in source:
            # Llama's one flag gives o a bias where q, k and v have one; InternLM3 may have it on those alone.
            tensors[parameter] = Zeros(shape, "float32")
            continue
        tensor = source.take(name, shape)
        if interleaved and (".q_proj." in parameter or ".k_proj." in parameter):
            tensor = UninterleaveHeads(tensor, config.head_dim)
        tensors[parameter] = tensor
    return tensors
