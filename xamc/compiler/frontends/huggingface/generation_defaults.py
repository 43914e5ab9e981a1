"""generation_config.json: end ids and sampling defaults, with the meaning that transformers and vLLM give odd values.

A temperature of 0 is the greedy choice (vLLM, and what transformers does beside ``do_sample: false``), as is a top_p of
0; a top_k of 0 or −1 and a top_p of 1 leave every token in; null says nothing. A compile needs none of them, so that a
value without meaning is left out with a word, and refuses no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from xamc.compiler.frontends.checkpoint import GenerationDefaults
from xamc.model.config import ModelConfig


def read_generation(values: Mapping[str, Any], source: Path) -> tuple[GenerationDefaults, tuple[str, ...]]:
    """(sampling defaults, a sentence for each value that is left out).

    Args:
        values: the parsed generation_config.json.
        source: its path, for the sentences.
    """
    notes: list[str] = []

    def number(key: str, good: Callable[[float], bool], what: str) -> float | None:
        value = values.get(key)
        if value is None:
            return None
        if type(value) not in (int, float) or not math.isfinite(value) or not good(value):
            notes.append(_left_out(source, key, value, what))
            return None
        return float(value)

    def texts(key: str) -> tuple[str, ...]:
        value = values.get(key)
        given = value if isinstance(value, list) else [] if value is None else [value]
        good = tuple(text for text in given if isinstance(text, str) and text)
        if len(good) < len(given):
            notes.append(_left_out(source, key, value, "a text or a list of texts"))
        return good

    temperature = number("temperature", lambda v: v >= 0, "a number from 0")
    top_k = number("top_k", lambda v: v >= -1 and v == int(v), "a whole number from -1")
    top_p = number("top_p", lambda v: v >= 0, "a number from 0")
    penalty = number("repetition_penalty", lambda v: v > 0, "a number above 0")
    do_sample = values.get("do_sample")
    if do_sample is not None and not isinstance(do_sample, bool):
        notes.append(_left_out(source, "do_sample", do_sample, "true or false"))
        do_sample = None
    if temperature == 0 or top_p == 0:
        do_sample = False
    defaults = GenerationDefaults(
        do_sample=do_sample,
        temperature=temperature or None,
        top_k=None if top_k is None else max(0, int(top_k)),
        top_p=min(top_p, 1.0) if top_p else None,
        repetition_penalty=penalty,
        stop_strings=texts("stop_strings"),
    )
    return defaults, tuple(notes)


def with_generation_ids(
    config: ModelConfig, values: Mapping[str, Any], source: Path
) -> tuple[ModelConfig, tuple[str, ...]]:
    """`config` with the ids of generation_config.json, which override those of config.json as in transformers.

    Args:
        config: of config.json.
        values: the parsed generation_config.json.
        source: its path, for the sentences.

    Returns:
        The config, and a sentence for each id that no token of the model has.
    """
    notes: list[str] = []

    def ids(key: str) -> tuple[int, ...]:
        value = values.get(key)
        given = value if isinstance(value, list) else [value]
        whole = [i for i in given if type(i) is int or (type(i) is float and i.is_integer())]
        good = [int(i) for i in whole if 0 <= i < config.vocab_size]
        bad = [i for i in given if i not in (None, -1) and i not in good]
        if bad:
            notes.append(_left_out(source, key, bad[0], f"a token id below vocab_size = {config.vocab_size}"))
        return tuple(dict.fromkeys(good))

    eos, bos = ids("eos_token_id"), ids("bos_token_id")
    config = replace(
        config,
        eos_token_ids=eos or config.eos_token_ids,
        bos_token_id=bos[0] if bos else config.bos_token_id,
    )
    return config, tuple(notes)


def _left_out(source: Path, key: str, value: object, expected: str) -> str:
    return f"{source}: {key} is {str(value)[:60]!r}, expected {expected}; it is left out"
