"""From a checkpoint's config.json to a `ModelConfig`: every key is read by name and type, the rest is left behind.

Nothing of the file reaches transformers as it stands: `hf_config` is written anew from checked values, so that
``auto_map``, keys with a leading underscore and whatever else config.json may carry can't select code
(CVE-2026-4372 was a class name in a private key).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xamc.compiler.frontends.config_reader import ConfigReader
from xamc.compiler.frontends.function_keys import refuse_function_keys
from xamc.compiler.frontends.windows import read_windows
from xamc.errors import InputError, UnsupportedError
from xamc.model.config import ModelConfig, RopeConfig, transformers_arguments
from xamc.model.layer import Family


def read_rope(config: ConfigReader, max_position_embeddings: int, theta: float = 10000.0) -> RopeConfig:
    """Rotary embedding from ``rope_parameters`` (transformers 5) or ``rope_scaling`` and ``rope_theta`` (before).

    Raises:
        InputError: E1106 for any type but default, linear, dynamic and llama3.
    """
    config.used |= {"rope_parameters", "rope_scaling", "rope_theta"}
    scaling = dict(config.mapping("rope_scaling")) or dict(config.mapping("rope_parameters"))
    for key, value in scaling.items():
        if isinstance(value, dict):
            raise InputError(
                "E1106",
                f"{config.source}: rope_parameters has an object for {key}",
                "every layer must have the same rotary embedding, with its keys in rope_parameters itself",
            )
    rope = ConfigReader({"rope_theta": config.values.get("rope_theta"), **scaling}, config.source)
    rope.used |= {"type", "rope_type", "partial_rotary_factor"}
    found = _rope(config, rope, scaling, max_position_embeddings, theta)
    at = "rope_scaling" if config.values.get("rope_scaling") else "rope_parameters"
    config.unread |= {f"{at}.{key}" for key in rope.leftover()}
    return found


def _rope(
    config: ConfigReader, rope: ConfigReader, scaling: Mapping[str, Any], max_position_embeddings: int, theta: float
) -> RopeConfig:
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    theta = rope.number("rope_theta", theta)
    partial = scaling.get("partial_rotary_factor", config.values.get("partial_rotary_factor", 1.0))
    config.used.add("partial_rotary_factor")
    if partial not in (None, 1, 1.0):
        raise InputError(
            "E1106",
            f"{config.source}: partial_rotary_factor {partial} is not supported",
            "only full rotary embeddings are",
        )
    if kind == "default":
        return RopeConfig("default", theta)
    if kind == "linear" or kind == "dynamic":
        return RopeConfig(kind, theta, factor=rope.number("factor"))
    if kind == "llama3":
        # beside rope_scaling it wins over the one inside, as transformers reads it when it builds the model
        original = rope.integer("original_max_position_embeddings", max_position_embeddings)
        original = config.integer("original_max_position_embeddings", original)
        return RopeConfig(
            "llama3",
            theta,
            factor=rope.number("factor"),
            low_freq_factor=rope.number("low_freq_factor"),
            high_freq_factor=rope.number("high_freq_factor"),
            original_max_position_embeddings=original,
        )
    raise InputError(
        "E1106",
        f"{config.source}: rotary embedding type {kind!r} is not supported",
        "supported are default, linear, dynamic and llama3; a model whose context extension is optional can be "
        "compiled without it by removing rope_scaling from config.json",
    )


def rope_parameters(rope: RopeConfig) -> dict[str, Any]:
    """`rope` in the spelling of transformers' ``rope_parameters``."""
    values: dict[str, Any] = {"rope_type": rope.kind, "rope_theta": rope.theta}
    if rope.kind != "default":
        values["factor"] = rope.factor
    if rope.kind == "llama3":
        values["low_freq_factor"] = rope.low_freq_factor
        values["high_freq_factor"] = rope.high_freq_factor
        values["original_max_position_embeddings"] = rope.original_max_position_embeddings
    return values


def refuse_unmappable(config: ConfigReader) -> None:
    """Refuses what changes the computation in a way no family expresses.

    Raises:
        UnsupportedError: E1107 naming the key.
    """
    quantization = config.values.get("quantization_config") or config.values.get("compression_config")
    if quantization:
        method = quantization.get("quant_method", "unnamed") if isinstance(quantization, dict) else "unnamed"
        raise UnsupportedError(
            "E1107",
            f"{config.source}: quantization_config ({method}) marks weights that are quantized already",
            "use the float16 or bfloat16 checkpoint and let frontend.quantize do it",
        )
    activation = config.values.get("hidden_act", "silu")
    config.used |= {"hidden_act", "quantization_config", "compression_config"}
    if activation not in ("silu", "swish"):
        raise UnsupportedError(
            "E1107", f"{config.source}: hidden_act {activation!r} is not supported", "supported is silu"
        )


def _ids(config: ConfigReader, key: str, default: int | None, vocab_size: int) -> tuple[int, ...]:
    """Token ids of `key`; the class's own default where the key is absent, none where it is null."""
    if key not in config.values and default is not None and default < vocab_size:
        return (default,)
    return config.token_ids(key, vocab_size)


def model_config(
    config: ConfigReader,
    family: Family,
    *,
    rope: RopeConfig | None = None,
    flags: Mapping[str, bool] | None = None,
    has_window_keys: bool = True,
) -> ModelConfig:
    """A `ModelConfig` from the keys that all Llama-like families share.

    Args:
        config: the checkpoint's config.json.
        family: what it becomes.
        rope: the rotary embedding; read from the standard keys when None.
        flags: which biases there are, by the names of `Layer.flags`, others are false; read from config.json by these
            names when None.
        has_window_keys: whether config.json may speak of windows; without, all layers have full attention.

    Raises:
        InputError: E1104, a missing, mistyped or contradictory key.
        InputError: E1106; UnsupportedError: E1107.
    """
    defaults = family.defaults
    refuse_unmappable(config)
    config.used |= refuse_function_keys(config.values, config.source)
    heads = config.integer("num_attention_heads")
    # null means as many as heads
    kv_heads = defaults.get("num_key_value_heads", heads) if "num_key_value_heads" not in config.values else heads
    kv_heads = config.integer("num_key_value_heads", heads if heads % kv_heads else kv_heads)
    hidden = config.integer("hidden_size")
    layers = config.integer("num_hidden_layers", high=4096)
    windows, window_keys = read_windows(config, family, layers) if has_window_keys else ((None,) * layers, {})
    if flags is None:
        flags = {name: config.flag(name, defaults.get(name, False)) for name in family.layer.flags}
    vocab = config.integer("vocab_size")
    positions = config.integer("max_position_embeddings")
    width = config.integer("head_dim", defaults.get("head_dim", 0), low=0)
    if width == 0:
        if hidden % heads:
            raise InputError(
                "E1104",
                f"{config.source}: hidden_size {hidden} is no multiple of num_attention_heads {heads} "
                "and head_dim is absent",
                "restore the model's own config.json",
            )
        width = hidden // heads
    if heads % kv_heads:
        raise InputError(
            "E1104",
            f"{config.source}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}",
            "restore the model's own config.json",
        )
    if width % 2:
        raise InputError(
            "E1104", f"{config.source}: head_dim {width} is odd, rotary embeddings need pairs", "restore config.json"
        )
    rope = rope or read_rope(config, positions)
    eos = _ids(config, "eos_token_id", defaults.get("eos_token_id"), vocab)
    bos = _ids(config, "bos_token_id", defaults.get("bos_token_id"), vocab)
    config.used.add("pad_token_id")  # batches are padded by length, no token is special for it
    fields: dict[str, Any] = {
        "hidden_size": hidden,
        "intermediate_size": config.integer("intermediate_size"),
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": width,
        "vocab_size": vocab,
        "max_position_embeddings": positions,
        "rms_norm_eps": config.number("rms_norm_eps", 1e-6),
        "tie_word_embeddings": config.flag("tie_word_embeddings", False),
        "bos_token_id": bos[0] if bos else None,
        "eos_token_ids": eos,
    }
    return ModelConfig(
        model_type=str(config.values.get("model_type")),
        architecture=family.architecture,
        rope=rope,
        qk_norm=family.layer.has_qk_norm,
        sliding_windows=windows,
        hf_config={
            **transformers_arguments(fields),
            "hidden_act": "silu",
            "rope_parameters": rope_parameters(rope),
            **window_keys,
            **{name: flags.get(name, False) for name in family.layer.flags},
        },
        **fields,
    )
