"""The parameters a transformers class wants, and taking them out of a checkpoint with every shape checked."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xamc.compiler.contract import ModelConfig
from xamc.compiler.errors import InputError
from xamc.compiler.weights.lazy import LazyTensor
from xamc.compiler.weights.transforms import Zeros

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


@dataclass
class TensorSource:
    """A checkpoint's tensors by their own names; `take` checks each and remembers what is missing or wrong.

    Problems are collected, so that one error lists them all: a checkpoint of another size gets every shape wrong, and
    the first few together tell the story.

    Args:
        tensors: stored tensors by the checkpoint's names.
        file_of: the file a name is stored in, for messages.
        source: folder or file of the checkpoint.
        harmless: whether a name may stay unused (rotary tables, a tied head).
        raw_config: config.json as it stands, for a family whose mapping depends on a key of its own.
        config_name: what describes the model, for messages.
        remedy: what helps where tensors and description disagree.
        missing_remedy: what helps where tensors are missing.
    """

    tensors: Mapping[str, LazyTensor]
    file_of: Callable[[str], Path]
    source: Path
    harmless: Callable[[str], bool]
    raw_config: Mapping[str, Any] = field(default_factory=dict)
    config_name: str = "config.json"
    remedy: str = "config.json and the weights must come from the same model"
    missing_remedy: str = "download all shards of the checkpoint; config.json must belong to it"
    taken: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def take(self, name: str, shape: Shape) -> LazyTensor:
        """The tensor `name`, which must have `shape`; zeros stand in for a problem until `finish` raises it."""
        self.taken.add(name)
        tensor = self.tensors.get(name)
        if tensor is None:
            self.missing.append(name)
            return Zeros(shape, "float32")
        if tensor.shape != shape:
            found, wanted = list(tensor.shape), list(shape)
            self.mismatched.append(
                f"{name} in {self.file_of(name)}: {self.config_name} asks for {wanted}, found {found}"
            )
            return Zeros(shape, "float32")
        return tensor

    def finish(self) -> tuple[str, ...]:
        """Names of harmless unused tensors.

        Raises:
            InputError: E1122 wrong shapes, E1120 missing tensors, E1121 tensors the config has no place for.
        """
        if self.mismatched:
            raise InputError(
                "E1122",
                f"config and weights disagree: {self.mismatched[0]}" + _and_more(self.mismatched),
                self.remedy,
                details=tuple(self.mismatched[:20]),
            )
        unused = sorted(self.tensors.keys() - self.taken)
        extra = [name for name in unused if not self.harmless(name)]
        if self.missing:
            close = difflib.get_close_matches(self.missing[0], extra, n=1)
            hint = f" (it holds {close[0]})" if close else ""
            raise InputError(
                "E1120",
                f"{self.source} lacks the tensor {self.missing[0]}{hint}" + _and_more(self.missing),
                self.missing_remedy,
                details=tuple(self.missing[:20]),
            )
        if extra:
            raise InputError(
                "E1121",
                f"{self.file_of(extra[0])} holds the tensor {extra[0]}, which the model of {self.config_name} has no "
                "place for" + _and_more(extra),
                self.remedy,
                details=tuple(extra[:20]),
            )
        return tuple(unused)


def _and_more(items: list[str]) -> str:
    return f" (and {len(items) - 1} more)" if len(items) > 1 else ""
