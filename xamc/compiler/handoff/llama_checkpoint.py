"""A checkpoint as plain Llama: what the vendor's toolchain compiles without a hand-patched modeling file.

InternLM 1 to 3, Mistral without a window that matters and Qwen2 compute what Llama computes; only names, the packing
of ``wqkv`` and flags differ. The result holds separate q, k, v, gate and up matrices under Llama's names, a config.json
of ``model_type: llama`` without ``auto_map``, and not one Python file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from xamc.compiler.frontends import Checkpoint
from xamc.errors import UnsupportedError
from xamc.ir.weights.lazy import LazyTensor
from xamc.ir.weights.transforms import Cast, Zeros
from xamc.model.config import ModelConfig
from xamc.model.families import FAMILIES
from xamc.model.families.llama import LLAMA
from xamc.model.layer import EMBEDDING_WEIGHT, Layer, Size
from xamc.model.parameters import layer_name, parameter_shapes

StoredDtype = Literal["float16", "bfloat16", "float32", "source"]

# The vendor's pin for Llama, and the releases from which transformers' own LlamaForCausalLM knows what is listed.
OLDEST_TRANSFORMERS = "4.34.0"
_SINCE = {"mlp_bias": "4.41.0", "llama3": "4.43.0", "head_dim": "4.45.0"}


@dataclass(frozen=True)
class LlamaCheckpoint:
    """What is written.

    Attributes:
        config: the content of config.json.
        generation: the content of generation_config.json.
        tensors: weights by Llama's names in the order of a forward pass, in the dtype they are stored in.
        transformers: the oldest release whose LlamaForCausalLM computes this.
        notes: what a reader should know, one sentence each.
    """

    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    tensors: Mapping[str, LazyTensor]
    transformers: str
    notes: tuple[str, ...]


def as_llama(checkpoint: Checkpoint, longest: int, dtype: StoredDtype = "float16") -> LlamaCheckpoint:
    """Maps an opened checkpoint to plain Llama; no weight is read.

    Args:
        checkpoint: any supported family.
        longest: most tokens of a sequence on the target; a sliding window that is no shorter never cuts anything off.
        dtype: how weights are stored; ``source`` keeps each tensor's own.

    Raises:
        UnsupportedError: E1450, the model is not Llama-shaped; the message says why.
    """
    config = checkpoint.config
    reason = next(_differences(config, longest), None)
    if reason is not None:
        raise UnsupportedError(
            "E1450",
            f"{checkpoint.path}: {config.model_type} is not Llama-shaped: {reason}",
            fix="hand it off as ONNX only (--route onnx), or use the vendor's modeling file for this family",
        )
    notes: list[str] = []
    tensors = _tensors(checkpoint, dtype, notes)
    values = _config(config, tensors, longest, dtype, notes)
    needed = [release for key, release in _SINCE.items() if key in values]
    if config.rope.kind == "llama3" or (config.rope.kind == "linear" and config.rope.factor < 1.0):
        needed.append(_SINCE["llama3"])  # before it only linear and dynamic were known, with a factor above 1
    oldest = max([OLDEST_TRANSFORMERS, *needed], key=_release)
    if needed:
        notes.append(f"transformers {oldest} or later is needed; older ones ignore or refuse a key of config.json")
    return LlamaCheckpoint(values, _generation(checkpoint), tensors, oldest, tuple(notes))


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _differences(config: ModelConfig, longest: int) -> Iterator[str]:
    layer = FAMILIES[config.architecture].layer if config.architecture in FAMILIES else None
    if layer is not None and layer.has_qk_norm:
        yield "it normalizes queries and keys per head (q_norm, k_norm), for which Llama has no parameters"
    elif layer is None or _modules(layer) != _modules(LLAMA.layer):
        yield f"xamc knows no form of {config.architecture} in Llama's terms"
    short = [window for window in config.sliding_windows if window is not None and window < longest]
    if short:
        yield (
            f"a sliding window of {min(short)} tokens in {len(short)} of {config.num_layers} layers cuts off what "
            f"sequences of {longest} tokens attend to"
        )
    if config.rope.kind == "dynamic" and config.rope.factor <= 1.0 and longest > config.max_position_embeddings:
        yield (
            f"its dynamic RoPE of factor {config.rope.factor:g} grows beyond {config.max_position_embeddings} "
            "positions, and transformers before 4.43 refuses a factor that is not above 1"
        )


def _modules(layer: Layer) -> set[tuple[str, tuple[Size, ...]]]:
    return {(part.name, part.axes) for part in layer.parts}


def _tensors(checkpoint: Checkpoint, dtype: StoredDtype, notes: list[str]) -> dict[str, LazyTensor]:
    """Every Llama parameter; a bias that only some projections have becomes zeros for the others."""
    flags: dict[str, bool] = {}
    for flag, linears in LLAMA.layer.flags.items():
        parts = [linear.name.rpartition(".")[2] for linear in linears]
        absent = [part for part in parts if not any(name.endswith(f".{part}.bias") for name in checkpoint.tensors)]
        flags[flag] = absent != parts
        if absent and flags[flag]:
            notes.append(
                f"Llama has one {flag} for {', '.join(parts)}; {', '.join(absent)} got zeros, which add nothing"
            )
    shapes = parameter_shapes(
        dataclasses.replace(checkpoint.config, architecture=LLAMA.architecture, qk_norm=False, hf_config=flags)
    )
    tensors: dict[str, LazyTensor] = {}
    for name, shape in shapes.items():
        source = checkpoint.tensors.get(name)
        if source is None:  # only biases can be missing: the frontend has checked everything else
            source = Zeros(shape, "float32" if dtype == "source" else dtype)
        tensors[name] = source if dtype in ("source", source.dtype) else Cast(source, dtype, name)
    return tensors


def _config(
    config: ModelConfig, tensors: Mapping[str, LazyTensor], longest: int, dtype: StoredDtype, notes: list[str]
) -> dict[str, Any]:
    """config.json in the keys that transformers 4.34 to 5 read alike."""
    positions = config.max_position_embeddings
    windows = [window for window in config.sliding_windows if window is not None]
    if windows:
        positions = min(positions, *windows)
        notes.append(
            f"the sliding window of {min(windows)} tokens is left out: it never cuts off anything within the compiled "
            f"{longest} tokens; max_position_embeddings is {positions}, up to which the models are equal"
        )
    eos = list(config.eos_token_ids)
    values: dict[str, Any] = {
        "architectures": [LLAMA.architecture],
        "model_type": LLAMA.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": positions,
        "initializer_range": 0.02,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope.theta,
        "rope_scaling": _rope_scaling(config, notes),
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "pretraining_tp": 1,
        "use_cache": True,
        "torch_dtype": tensors[EMBEDDING_WEIGHT].dtype if dtype == "source" else dtype,
    }
    for flag, linears in LLAMA.layer.flags.items():
        if f"{layer_name(0)}.{linears[0].name}.bias" in tensors:
            values[flag] = True
    if config.head_dim * config.num_heads != config.hidden_size:
        values["head_dim"] = config.head_dim
    return values


def _rope_scaling(config: ModelConfig, notes: list[str]) -> dict[str, Any] | None:
    """Two keys, `type` and a float `factor` above 1: transformers before 4.43 refuses any other form."""
    rope = config.rope
    match rope.kind:
        case "default":
            return None
        case "llama3":
            return {
                "rope_type": "llama3",
                "factor": rope.factor,
                "low_freq_factor": rope.low_freq_factor,
                "high_freq_factor": rope.high_freq_factor,
                "original_max_position_embeddings": rope.original_max_position_embeddings,
            }
        case "linear" | "dynamic":
            if rope.factor == 1.0 or (rope.kind == "dynamic" and rope.factor < 1.0):
                notes.append(
                    f"{rope.kind} RoPE scaling of factor {rope.factor:g} is left out: it changes nothing up to "
                    f"{config.max_position_embeddings} positions"
                )
                return None
            return {"type": rope.kind, "factor": float(rope.factor)}


def _generation(checkpoint: Checkpoint) -> dict[str, Any]:
    defaults = checkpoint.generation
    values = {
        "bos_token_id": checkpoint.config.bos_token_id,
        "eos_token_id": list(checkpoint.config.eos_token_ids) or None,
        "do_sample": defaults.do_sample,
        "temperature": defaults.temperature,
        "top_k": defaults.top_k,
        "top_p": defaults.top_p,
        "repetition_penalty": defaults.repetition_penalty,
    }
    return {key: value for key, value in values.items() if value is not None}
