"""Typed access to a config.json: every key is read by name and type, the rest is left behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xamc.errors import InputError

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
