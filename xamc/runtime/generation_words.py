"""The words of transformers' `generate` and `GenerationConfig`, taken with their meaning or refused by name.

`Options` holds what this runtime does. A word of transformers either becomes a field of it, or is a default that
changes nothing, or an error that names it; so scripts written for `model.generate` of transformers run, or say why
they can't.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from xamc.errors import MisuseError, UnsupportedError
from xamc.runtime.options import Options
from xamc.runtime.sampling import check_whole_number

TOP_K = 50
"""transformers' default of `top_k` where it samples."""

_NO = (None, False)
_NONE: tuple[Any, ...] = (None, [], (), {})
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "length_penalty", "guidance_scale"), (None, 1)),
    **dict.fromkeys(("typical_p", "encoder_repetition_penalty"), (None, 1)),
    **dict.fromkeys(("diversity_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), (None, 0)),
    **dict.fromkeys(("min_p", "top_h", "epsilon_cutoff", "eta_cutoff", "penalty_alpha", "max_time"), (None, 0)),
    **dict.fromkeys(("early_stopping", "remove_invalid_values", "token_healing", "low_memory", "synced_gpus"), _NO),
    **dict.fromkeys(("return_dict_in_generate", "output_scores", "output_logits", "is_assistant", "use_mtp"), _NO),
    **dict.fromkeys(("output_attentions", "output_hidden_states", "assistant_early_exit"), _NO),
    **dict.fromkeys(("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias"), _NONE),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty"), _NONE),
    **dict.fromkeys(("constraints", "force_words_ids", "dola_layers", "watermarking_config"), _NONE),
    **dict.fromkeys(("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "assistant_model"), _NONE),
    **dict.fromkeys(("assistant_tokenizer", "streamer", "negative_prompt_ids", "custom_generate"), _NONE),
    **dict.fromkeys(("negative_prompt_attention_mask", "speculation_type"), _NONE),
    **dict.fromkeys(("cache_implementation", "cache_config", "max_cache_len", "past_key_values"), _NONE),
    **dict.fromkeys(
        ("continuous_batching_config", "decoder_start_token_id", "inputs_embeds", "decoder_input_ids"), _NONE
    ),
    **dict.fromkeys(("position_ids", "token_type_ids", "logits_to_keep"), _NONE),
}
"""Words that are refused, and the values with which they ask for nothing."""

_WITHOUT_EFFECT = frozenset(
    {
        # answers are lists of their own length, so that nothing is padded; a prompt is never empty
        *("pad_token_id", "bos_token_id"),
        # how transformers computes the same tokens
        *("use_cache", "compile_config", "disable_compile", "prefill_chunk_size", "renormalize_logits"),
        # of draft models, which `assistant_model` would name
        *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
        *("max_matching_ngram_size", "assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight"),
        # the artifact has its own
        *("tokenizer", "transformers_version"),
    }
)
_REMEDY = {
    "streamer": "use `stream`, or `on_text=`",
    "output_scores": "use `logits`",
    "output_logits": "use `logits`",
    "return_dict_in_generate": "leave it out: a Generation has text, token_ids and why it ended",
    "num_beams": "leave it out: answers are greedy or sampled",
    "max_time": "use `stream`, and stop reading",
    "min_p": "use top_p or top_k",
}
_NAMES_ELSEWHERE = {
    "max_tokens": "max_new_tokens",
    "n_predict": "max_new_tokens",
    "num_predict": "max_new_tokens",
    "n": "num_return_sequences",
    "best_of": "num_return_sequences",
    "repeat_penalty": "repetition_penalty",
    "stop_words": "stop",
    "stop_sequences": "stop",
    "stop_token_ids": "eos_token_id",
    "random_seed": "seed",
    "temp": "temperature",
}
_OWN = frozenset(field.name for field in fields(Options))
_TAKEN = frozenset(
    {"max_length", "min_length", "do_sample", "stop_strings", "num_return_sequences", "generation_config"}
    | {"inputs", "input_ids", "attention_mask", "max_new_tokens", "prompt_lookup_num_tokens"}
)


@dataclass(frozen=True)
class Request:
    """What a call of `generate` asks for.

    Attributes:
        options: how tokens are chosen, and what ends an answer.
        max_new_tokens: most tokens of an answer; None: no limit but the context's.
        max_length: most tokens of prompt and answer together; counts where `max_new_tokens` is None.
        min_length: fewest tokens of prompt and answer together.
        copies: answers to each prompt.
    """

    options: Options
    max_new_tokens: int | None = None
    max_length: int | None = None
    min_length: int = 0
    copies: int = 1


def read_request(max_new_tokens: int | None, words: Mapping[str, Any]) -> Request:
    """What the words of a call ask for.

    Args:
        max_new_tokens: the argument of this name.
        words: all others by name: fields of `Options`, and transformers' words.

    Raises:
        MisuseError: E1612, a value that means nothing or an unknown word.
        UnsupportedError: E1653, a word of transformers that this runtime can't do.
    """
    given = {**_of_config(words.get("generation_config")), **words}
    given.pop("generation_config", None)
    if max_new_tokens is not None:
        given["max_new_tokens"] = max_new_tokens
    for name, value in given.items():
        _check_word(name, value)
    values = {name: value for name, value in given.items() if name in _OWN and value is not None}
    _choose_sampling(given, values)
    if _whole_number(given, "prompt_lookup_num_tokens", 0):
        values.setdefault("speculate", "ngram")
    if given.get("stop_strings") is not None:
        if "stop" in values:
            raise MisuseError("E1612", "stop and stop_strings are both given", "they are the same: give one")
        values["stop"] = given["stop_strings"]
    return Request(
        options=Options(**values),
        max_new_tokens=_whole_number(given, "max_new_tokens", 1),
        max_length=_whole_number(given, "max_length", 1),
        min_length=_whole_number(given, "min_length", 0) or 0,
        copies=_whole_number(given, "num_return_sequences", 1) or 1,
    )


def _of_config(config: Any) -> dict[str, Any]:
    """The words of a `GenerationConfig` or of a mapping that is like one; what it doesn't set is left out."""
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        to_dict = getattr(config, "to_diff_dict", None)
        config = to_dict() if callable(to_dict) else None
    if not isinstance(config, Mapping):
        raise MisuseError("E1612", "generation_config is no GenerationConfig", "give one, or a mapping of its words")
    return {str(name): value for name, value in config.items() if value is not None and not str(name).startswith("_")}


def is_word(name: str) -> bool:
    """Whether `generate` knows a name, be it to refuse it."""
    return name in _OWN or name in _TAKEN or name in _WITHOUT_EFFECT or name in _NEUTRAL


def _check_word(name: str, value: Any) -> None:
    """Refuses a word that is unknown, or asks for what the runtime can't do."""
    if name in _NEUTRAL:
        if isinstance(value, (bool, int, float, list, tuple, dict, type(None))) and value in _NEUTRAL[name]:
            return
        raise UnsupportedError(
            "E1653",
            f"{name}={_shown(value)} is a word of transformers' generate that this runtime can't do",
            _REMEDY.get(name, "leave it out"),
        )
    if is_word(name):
        return
    known = [*_OWN, *_TAKEN, "on_text"]
    near = _NAMES_ELSEWHERE.get(name) or next(iter(difflib.get_close_matches(name, known, 1)), None)
    raise MisuseError(
        "E1612",
        f"{name} is no option",
        f"did you mean {near}?" if near else f"the options are {', '.join(sorted(known))}",
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else type(value).__name__


def _choose_sampling(given: Mapping[str, Any], values: dict[str, Any]) -> None:
    """`do_sample` decides in transformers; where it is not given, a temperature does."""
    do_sample = given.get("do_sample")
    if do_sample is None:
        return
    if not isinstance(do_sample, (bool, np.bool_)):
        raise MisuseError("E1612", f"do_sample is {_shown(do_sample)}", "it must be True or False")
    if not do_sample:
        values["temperature"] = 0.0
        return
    values.setdefault("temperature", 1.0)
    values.setdefault("top_k", TOP_K)
    if values["temperature"] == 0:
        raise MisuseError(
            "E1612", "do_sample is True and temperature is 0", "give a temperature above 0, or do_sample=False"
        )


def _whole_number(given: Mapping[str, Any], name: str, least: int) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    check_whole_number(name, value, least)
    return int(value)


def without_masked(prompt: Any, mask: Any) -> list[list[int]]:
    """The token ids that a mask keeps, as lists of their own lengths: rows of a batch need no padding here.

    Args:
        prompt: int64[B, T], padded on either side.
        mask: [B, T], 0 at padding.

    Raises:
        MisuseError: E1612, the mask is not one of these ids.
    """
    try:
        ids, kept = np.asarray(prompt), np.asarray(mask)
    except ValueError:  # rows of several lengths
        ids, kept = np.zeros(0), np.zeros(1)
    if ids.shape != kept.shape or ids.ndim != 2:
        raise MisuseError(
            "E1612",
            "attention_mask and the prompts are not arrays of one shape [B, T]",
            "give prompts as lists of token ids, each of its own length, and no mask",
        )
    return [row[row_mask != 0].tolist() for row, row_mask in zip(ids, kept)]
