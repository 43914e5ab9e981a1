"""From a checkpoint's config.json to a `ModelConfig`: every key is read by name and type, the rest is left behind.

Nothing of the file reaches transformers as it stands: `hf_config` is written anew from checked values, so that
``auto_map``, keys with a leading underscore and whatever else config.json may carry can't select code
(CVE-2026-4372 was a class name in a private key).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xamc.compiler.frontends.function_keys import refuse_function_keys, refuse_windows
from xamc.errors import InputError, UnsupportedError
from xamc.model.config import ModelConfig, RopeConfig

# Keys that say how the checkpoint was trained, stored, loaded, classified with or sampled from, and nothing about what
# it computes. Those of generation stand in config.json of older models; transformers 5 leaves them out there.
NEUTRAL_KEYS = frozenset({
    "add_cross_attention", "architectures", "attention_dropout", "attn_implementation", "auto_map", "bad_words_ids",
    "begin_suppress_tokens", "bos_token", "chunk_size_feed_forward", "classifier_dropout",
    "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype",
    "early_stopping", "embd_pdrop", "encoder_no_repeat_ngram_size", "eos_token", "exponential_decay_length_penalty",
    "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "hidden_dropout", "id2label",
    "initializer_range", "is_decoder", "is_encoder_decoder", "is_llama_config", "label2id", "length_penalty",
    "mask_token_id", "max_length", "min_length", "model_type", "name_or_path", "no_repeat_ngram_size",
    "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions", "output_hidden_states",
    "output_scores", "pad_token", "prefix", "pretraining_tp", "problem_type", "pruned_heads",
    "remove_invalid_values", "repetition_penalty", "resid_pdrop", "return_dict", "return_dict_in_generate",
    "sep_token_id", "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss",
    "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript",
    "transformers.js_config", "transformers_version", "typical_p", "unk_token", "unk_token_id", "unsloth_fixed",
    "unsloth_version", "use_bfloat16", "use_cache",
})  # fmt: skip

_MISSING = object()


@dataclass
class ConfigReader:
    """Typed access to a parsed config.json that remembers which keys were asked for.

    Args:
        values: the parsed JSON object.
        source: the file's path, for messages.
        remedy: what helps against a key that is missing or wrong; empty: the model's own file.
        unread: keys inside of other keys that nobody asked for, such as ``rope_scaling.mscale``.
    """

    values: Mapping[str, Any]
    source: Path
    used: set[str] = field(default_factory=set)
    remedy: str = ""
    unread: set[str] = field(default_factory=set)

    def _get(self, key: str, default: Any, expected: str) -> Any:
        self.used.add(key)
        value = self.values.get(key)
        if value is not None:
            return value
        if default is _MISSING:
            raise InputError("E1104", f"{self.source} lacks the key {key} ({expected})", self._restore)
        return default

    def _wrong(self, key: str, value: object, expected: str) -> InputError:
        return InputError("E1104", f"{self.source}: {key} is {value!r}, expected {expected}", self._restore)

    @property
    def _restore(self) -> str:
        return self.remedy or f"restore the model's own {self.source.name}"

    def take(self, key: str) -> Any:
        """The value of `key` as it stands, whatever it is; None when absent."""
        self.used.add(key)
        return self.values.get(key)

    def integer(self, key: str, default: Any = _MISSING, low: int = 1, high: int = 2**31 - 1) -> int:
        """An integer in [low, high]."""
        expected = f"an integer from {low} to {high}"
        value = self._get(key, default, expected)
        if value is default and not isinstance(value, int):
            return value  # type: ignore[no-any-return]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._wrong(key, value, expected)
        return value

    def number(self, key: str, default: Any = _MISSING, above: float = 0.0) -> float:
        """A finite number greater than `above`."""
        expected = f"a number above {above:g}"
        value = self._get(key, default, expected)
        if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < 1e30:
            raise self._wrong(key, value, expected)
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._get(key, default, "true or false")
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def token_ids(self, key: str, vocab_size: int) -> tuple[int, ...]:
        """One token id, a list of them, or null; each inside the vocabulary."""
        value = self._get(key, (), "a token id or a list of token ids")
        ids = tuple(value) if isinstance(value, list | tuple) else (value,)
        for item in ids:
            if isinstance(item, bool) or not isinstance(item, int) or not -1 <= item < vocab_size:
                raise self._wrong(key, item, f"a token id below vocab_size = {vocab_size}")
        return tuple(i for i in ids if i >= 0)

    def mapping(self, key: str) -> Mapping[str, Any]:
        """A JSON object; empty when absent or null."""
        value = self._get(key, {}, "an object")
        if not isinstance(value, dict):
            raise self._wrong(key, value, "an object")
        return value

    def leftover(self) -> tuple[str, ...]:
        """Keys nobody asked for and that are not known to be neutral, sorted."""
        names = (k for k in self.values if k not in self.used and k not in NEUTRAL_KEYS and not k.startswith("_"))
        return tuple(sorted({*names, *self.unread}))


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
    architecture: str,
    *,
    rope: RopeConfig | None = None,
    head_dim: int | None = None,
    qk_norm: bool = False,
    sliding_windows: Sequence[int | None] | None = None,
    tie_word_embeddings: bool = False,
    kv_heads: int | None = None,
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
    extra: Mapping[str, Any] | None = None,
) -> ModelConfig:
    """A `ModelConfig` from the keys that all Llama-like families share.

    Args:
        config: the checkpoint's config.json.
        architecture: name of the transformers class.
        rope: the rotary embedding; read from the standard keys when None.
        head_dim: width of a head when config.json doesn't say; hidden_size / num_attention_heads when None.
        qk_norm: whether queries and keys are normalized per head.
        sliding_windows: per layer; when None the family has full attention alone, and keys that ask for windows are
            refused.
        tie_word_embeddings: the family's default.
        kv_heads: the family's default for an absent num_key_value_heads; null means as many as heads.
        bos_token_id: the family's default for an absent key; null means none.
        eos_token_id: as bos_token_id.
        extra: further keyword arguments of the transformers config class (bias flags, windows).

    Raises:
        InputError: E1104, a missing, mistyped or contradictory key.
        InputError: E1106; UnsupportedError: E1107.
    """
    refuse_unmappable(config)
    config.used |= refuse_function_keys(config.values, config.source)
    heads = config.integer("num_attention_heads")
    absent = "num_key_value_heads" not in config.values
    kv_heads = kv_heads if absent and kv_heads and heads % kv_heads == 0 else heads
    kv_heads = config.integer("num_key_value_heads", kv_heads)
    hidden = config.integer("hidden_size")
    layers = config.integer("num_hidden_layers", high=4096)
    if sliding_windows is None:
        config.used |= refuse_windows(config.values, config.source, layers)
    vocab = config.integer("vocab_size")
    positions = config.integer("max_position_embeddings")
    width = config.integer("head_dim", head_dim or 0, low=0)
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
    eos = _ids(config, "eos_token_id", eos_token_id, vocab)
    bos = _ids(config, "bos_token_id", bos_token_id, vocab)
    config.used.add("pad_token_id")  # batches are padded by length, no token is special for it
    tied = config.flag("tie_word_embeddings", tie_word_embeddings)
    eps = config.number("rms_norm_eps", 1e-6)
    intermediate = config.integer("intermediate_size")
    hf_config: dict[str, Any] = {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": width,
        "hidden_act": "silu",
        "vocab_size": vocab,
        "max_position_embeddings": positions,
        "rms_norm_eps": eps,
        "rope_parameters": rope_parameters(rope),
        "tie_word_embeddings": tied,
        "bos_token_id": bos[0] if bos else None,
        "eos_token_id": list(eos) or None,
        **(extra or {}),
    }
    return ModelConfig(
        model_type=str(config.values.get("model_type")),
        architecture=architecture,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=width,
        vocab_size=vocab,
        max_position_embeddings=positions,
        rms_norm_eps=eps,
        rope=rope,
        tie_word_embeddings=tied,
        qk_norm=qk_norm,
        sliding_windows=tuple(sliding_windows) if sliding_windows is not None else (None,) * layers,
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=eos,
        hf_config=hf_config,
    )
