"""Tokens that the files beside SentencePiece's tokenizer.model add to it or rename."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from xamc.compiler.frontends.tokenizers.bpe import CONTROL, UNKNOWN, UNUSED, USER_DEFINED, Vocabulary

MAX_GAP = 1 << 16  # ids without a token in a row
_RULES = ("lstrip", "rstrip", "single_word")


def with_added_tokens(vocabulary: Vocabulary, settings: Mapping[str, Any], added: Mapping[str, Any]) -> Vocabulary:
    """`vocabulary` with the tokens that the files beside it add or rename.

    InternLM2's chat models give reserved pieces of their SentencePiece model a new name this way (``<|im_end|>``).

    Args:
        vocabulary: of tokenizer.model.
        settings: tokenizer_config.json; its ``added_tokens_decoder`` may rename pieces and append tokens.
        added: added_tokens.json of older files, token → id.

    Raises:
        InputError: E1134, an entry that doesn't fit.
    """
    tokens, types, scores = list(vocabulary.tokens), list(vocabulary.types), list(vocabulary.scores)
    rules: dict[int, Mapping[str, bool]] = {}
    specials = _special_texts(settings)
    for number, text, special, rule in _added_entries(vocabulary, settings, added, specials):
        kind = CONTROL if special else USER_DEFINED
        if number > len(tokens) + MAX_GAP:
            raise vocabulary.invalid(f"{text!r} is added with the id {number}, the last token is {len(tokens) - 1}")
        for gap in range(len(tokens), number):
            # Rows of the embedding that no text leads to.
            tokens.append(f"[unassigned {gap}]")
            types.append(UNUSED)
            scores.append(0.0)
        if number == len(tokens):
            tokens.append(text)
            types.append(kind)
            scores.append(0.0)
        elif tokens[number] != text or (types[number] != kind and types[number] not in (UNKNOWN, CONTROL)):
            tokens[number], types[number] = text, kind
        rules[number] = rule
    index = {token: number for number, token in enumerate(tokens)}
    for text in specials:
        if text in index:
            # Found in a text as a whole, as transformers does with them, whatever piece they were.
            if types[index[text]] != UNKNOWN:
                types[index[text]] = CONTROL
                rules.setdefault(index[text], {})
        else:
            index[text] = len(tokens)
            tokens.append(text)
            types.append(CONTROL)
            scores.append(0.0)

    def special_id(key: str, fallback: int | None) -> int | None:
        if key in settings and settings[key] is None:  # the folder says that there is none
            return None
        text = _text(settings.get(key))
        return fallback if text is None else index.get(text, fallback)

    return replace(
        vocabulary,
        tokens=tokens,
        types=types,
        scores=scores,
        bos_id=special_id("bos_token", vocabulary.bos_id),
        eos_id=special_id("eos_token", vocabulary.eos_id),
        # Every published user of tokenizer.model starts with bos unless it says otherwise (LlamaTokenizer's default).
        add_bos=settings.get("add_bos_token", True) is True,
        add_eos=settings.get("add_eos_token", False) is True,
        add_space_prefix=vocabulary.add_space_prefix and settings.get("add_prefix_space", True) is not False,
        prefix_every_part=settings.get("legacy", True) is not False,
        added_rules=rules,
    )


def _added_entries(
    vocabulary: Vocabulary, settings: Mapping[str, Any], added: Mapping[str, Any], specials: Sequence[str]
) -> Iterator[tuple[int, str, bool, dict[str, bool]]]:
    """(id, text, whether special, further rules) by id; added_tokens_decoder wins over added_tokens.json."""
    entries: dict[int, tuple[str, bool, dict[str, bool]]] = {}
    for text, number in added.items():
        if type(number) is not int or number < 0:
            raise vocabulary.invalid(f"added_tokens.json has the entry {text!r}: {number!r}")
        entries[number] = (text, text in specials, {})
    decoder = settings.get("added_tokens_decoder")
    for key, entry in (decoder if isinstance(decoder, dict) else {}).items():
        content = entry.get("content") if isinstance(entry, dict) else None
        if not key.isdecimal() or len(key) > 12 or not isinstance(content, str):
            raise vocabulary.invalid(f"added_tokens_decoder has the entry {key!r}: {entry!r}")
        rules = {rule: True for rule in _RULES if entry.get(rule) is True}
        entries[int(key)] = (content, entry.get("special") is True, rules)
    for number in sorted(entries):
        yield number, *entries[number]


def _special_texts(settings: Mapping[str, Any]) -> list[str]:
    """The special tokens that tokenizer_config.json or special_tokens_map.json names, each once."""
    values = [settings.get(key) for key in ("bos_token", "eos_token", "unk_token", "pad_token")]
    more = settings.get("additional_special_tokens", settings.get("extra_special_tokens"))
    values += more if isinstance(more, list) else list(more.values()) if isinstance(more, dict) else []
    return list(dict.fromkeys(text for text in map(_text, values) if text))


def _text(value: object) -> str | None:
    """The text of a special token, which is a string or an object with its content."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None
