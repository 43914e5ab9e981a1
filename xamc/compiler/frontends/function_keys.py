"""Keys of config.json that change what a model computes and that no family expresses: refused by name.

Two kinds stand here. The first are read by every decoder class of transformers, through its mask and cache code or its
base config. The second belong to other families (Gemma's caps, Granite's multipliers, MiniCPM's scales); transformers'
classes for our families drop them in silence, and whoever wrote one meant a model that they don't compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from xamc.errors import UnsupportedError

Neutral = Callable[[Any, Mapping[str, Any]], bool]


def _one_of(*values: object) -> Neutral:
    """A flag or number that changes nothing at one of `values`; null is as good as absent."""
    return lambda value, _: value is None or any(type(value) is type(v) and value == v for v in values)


def _factor(value: Any, _: Mapping[str, Any]) -> bool:
    return value is None or (type(value) in (int, float) and value == 1)


def _cap(value: Any, _: Mapping[str, Any]) -> bool:
    return value is None or value is False or (type(value) in (int, float) and value == 0)


def _empty(value: Any, _: Mapping[str, Any]) -> bool:
    return value is None or value is False or value == {} or value == [] or value == ""


def _every_layer_rotates(value: Any, _: Mapping[str, Any]) -> bool:
    """`no_rope_layers` has a 1 for every layer that does rotate."""
    return value is None or (isinstance(value, list) and all(type(entry) is int and entry == 1 for entry in value))


def _head_dim(values: Mapping[str, Any]) -> float | None:
    found = values.get("head_dim")
    hidden, heads = values.get("hidden_size"), values.get("num_attention_heads")
    if type(found) is int and found > 0:
        return found
    return hidden / heads if type(hidden) is int and type(heads) is int and heads > 0 else None


def _usual_scale(value: Any, values: Mapping[str, Any]) -> bool:
    """`attention_multiplier` stands for 1 / sqrt(head_dim), by which every family of ours scales its scores."""
    width = _head_dim(values)
    return value is None or (
        width is not None and type(value) in (int, float) and abs(value - width**-0.5) <= 1e-6 * width**-0.5
    )


def _usual_width(value: Any, values: Mapping[str, Any]) -> bool:
    """`query_pre_attn_scalar` stands for head_dim below the same root."""
    return value is None or value == _head_dim(values)


_CAUSAL = "bidirectional attention can't be compiled; a causal model is needed"
_SCORES = "attention scores are always divided by sqrt(head_dim)"
_ROTARY = "every layer must rotate all of every head, in halves"
_MULTIPLIER = "no family multiplies there"
_CAPS = "no family caps logits or scores"
_LAYERS = "all layers must have the same shape, each with keys and values of its own"
_STORED = "use the float16 or bfloat16 checkpoint and let frontend.quantize do it"
_INNER = "give the folder of the language model alone, with its config at the top of config.json"

# key → (what changes nothing, what is supported instead)
_KEYS: Mapping[str, tuple[Neutral, str]] = {
    # read for every decoder: masking_utils, cache_utils, configuration_utils of transformers
    "is_causal": (_one_of(True), _CAUSAL),
    "attention_chunk_size": (_empty, "no family attends in chunks"),
    "num_kv_shared_layers": (_cap, _LAYERS),
    "per_layer_config": (_empty, _LAYERS),
    "text_config": (_empty, _INNER),
    "decoder": (_empty, _INNER),
    "generator": (_empty, _INNER),
    # weights in forms that other tools store
    "quantization": (_empty, _STORED),
    "quantize": (_empty, _STORED),
    # of other families
    "use_bidirectional_attention": (_one_of(False), _CAUSAL),
    "bidirectional": (_one_of(False), _CAUSAL),
    "causal_attention": (_one_of(True), _CAUSAL),
    "attn_logit_softcapping": (_cap, _CAPS),
    "final_logit_softcapping": (_cap, _CAPS),
    "logits_soft_cap": (_cap, _CAPS),
    "clip_qkv": (_cap, "no family clips queries, keys and values"),
    "attention_multiplier": (_usual_scale, _SCORES),
    "query_pre_attn_scalar": (_usual_width, _SCORES),
    "embedding_multiplier": (_factor, _MULTIPLIER),
    "residual_multiplier": (_factor, _MULTIPLIER),
    "logits_scaling": (_factor, _MULTIPLIER),
    "logit_scale": (_factor, _MULTIPLIER),
    "scale_emb": (_factor, _MULTIPLIER),
    "scale_depth": (_empty, _MULTIPLIER),
    "mup_enabled": (_one_of(False), _MULTIPLIER),
    "use_logn_attn": (_one_of(False), _SCORES),
    "use_dynamic_ntk": (_one_of(False), "rope_scaling of type dynamic is what transformers reads"),
    "attn_temperature_tuning": (_cap, _SCORES),
    "no_rope_layers": (_every_layer_rotates, _ROTARY),
    "no_rope_layer_interval": (_cap, _ROTARY),
    "rope_local_base_freq": (_empty, "every layer must have the same rotary embedding"),
    "rope_interleaved": (_one_of(False), _ROTARY),
    "rotary_pct": (_factor, _ROTARY),
    "use_mrope": (_one_of(False), "positions are one number per token"),
    "alibi": (_one_of(False), _ROTARY),
    # "absolute" is BERT's default, which transformers 3 wrote into configs of other models as well
    "position_embedding_type": (_one_of("rope", "rotary", "absolute"), _ROTARY),
    "parallel_attn": (_one_of(False), "attention comes before the MLP in every family"),
    "use_parallel_residual": (_one_of(False), "attention comes before the MLP in every family"),
    "hidden_activation": (_one_of("silu", "swish"), "supported is silu"),
}  # fmt: skip


def refuse_function_keys(values: Mapping[str, Any], source: object) -> frozenset[str]:
    """Refuses keys whose value asks for another function; returns the keys that are there and ask for none.

    Args:
        values: the parsed config.json.
        source: its path, for messages.

    Raises:
        UnsupportedError: E1107 naming key and value.
    """
    architectures = values.get("architectures")
    for name in architectures if isinstance(architectures, list) else ():
        if isinstance(name, str) and "bidirec" in name.lower():
            raise UnsupportedError("E1107", f"{source}: architectures {name!r} is not supported", _CAUSAL)
    present = _KEYS.keys() & values.keys()
    for key in _KEYS:
        if key in present and not _KEYS[key][0](values[key], values):
            value = values[key]
            shown = "an object" if isinstance(value, dict) else repr(value)
            raise UnsupportedError("E1107", f"{source}: {key} {shown[:80]} is not supported", _KEYS[key][1])
    return frozenset(present)
