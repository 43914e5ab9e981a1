"""Tokenizer files of a Hugging Face folder: tokenizer.json as it is, or built from SentencePiece's tokenizer.model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xamc.compiler.contract import ModelConfig
from xamc.compiler.errors import InputError
from xamc.compiler.frontends.bpe import CONTROL, UNKNOWN, UNUSED, USER_DEFINED, Vocabulary
from xamc.compiler.frontends.chat_defaults import chat_defaults
from xamc.compiler.frontends.json_file import read_json, read_text
from xamc.compiler.frontends.sentencepiece_model import read_sentencepiece
from xamc.compiler.frontends.sentencepiece_tokenizer import sentencepiece_tokenizer

MOST_GROWTH = 1000  # characters that a normalizer makes of one
# What the runtime and chat templates use of tokenizer_config.json; auto_map and class names stay behind.
_CONFIG_KEYS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "additional_special_tokens",
    "add_bos_token",
    "add_eos_token",
    "clean_up_tokenization_spaces",
    "model_max_length",
)


@dataclass(frozen=True)
class TokenizerFiles:
    """The artifact's tokenizer folder, the chat template, and the files both were read from.

    Attributes:
        stop: the id that ends a turn in the chats of this family, whatever the folder says.
        built_in_template: whether the template is the family's, as the folder brings none.
    """

    files: Mapping[str, bytes | Path]
    chat_template: str | None
    sources: tuple[Path, ...]
    stop: int | None = None
    built_in_template: bool = False


def tokenizer_files(folder: Path, config: ModelConfig) -> TokenizerFiles:
    """Reads and checks the tokenizer of `folder`.

    Raises:
        InputError: E1103 damaged JSON, E1134 no tokenizer or one that doesn't fit the model.
        UnsupportedError: E1134 a SentencePiece model that is neither BPE nor Unigram, E1163 a feature of one.
    """
    config_file, template_file = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    map_file, added_file = folder / "special_tokens_map.json", folder / "added_tokens.json"
    settings = read_json(config_file) if config_file.exists() else {}
    template = read_text(template_file) if template_file.exists() else _default_template(settings)
    sources = [path for path in (config_file, template_file) if path.exists()]
    files: dict[str, bytes | Path] = {}
    ids: Mapping[str, int]
    ready, model = folder / "tokenizer.json", folder / "tokenizer.model"
    if ready.exists():
        ids = _check(ready, read_json(ready), config.vocab_size)
        files["tokenizer.json"] = ready
        sources.append(ready)
    elif model.exists():
        # Older files keep special tokens in files of their own; tokenizer_config.json wins.
        beside = [path for path in (map_file, added_file) if path.exists()]
        settings = {**(read_json(map_file) if map_file in beside else {}), **settings}
        added = read_json(added_file) if added_file in beside else {}
        vocabulary = with_added_tokens(read_sentencepiece(model), settings, added)
        if len(vocabulary.tokens) > config.vocab_size:
            raise _too_large(model, len(vocabulary.tokens), config.vocab_size)
        files["tokenizer.json"] = sentencepiece_tokenizer(vocabulary)
        ids = vocabulary.index
        sources += [model, *beside]
    else:
        raise InputError(
            "E1134",
            f"{folder} holds neither tokenizer.json nor tokenizer.model",
            "download the tokenizer files as well",
        )
    defaults = chat_defaults(config.model_type, ids)
    built_in = template is None and defaults is not None
    if defaults is not None and template is None:
        template = defaults.template
    kept = {key: settings[key] for key in _CONFIG_KEYS if settings.get(key) is not None} | {
        "tokenizer_class": "PreTrainedTokenizerFast"
    }
    if template is not None:
        kept["chat_template"] = template
    files["tokenizer_config.json"] = json.dumps(kept, ensure_ascii=False, indent=2, sort_keys=True).encode()
    stop = None if defaults is None else defaults.stop
    return TokenizerFiles(files, template, tuple(sources), stop, built_in)


def _default_template(settings: Mapping[str, Any]) -> str | None:
    """The chat template of tokenizer_config.json: a string, or the one named default of a list."""
    template = settings.get("chat_template")
    if isinstance(template, list):
        template = next(
            (t.get("template") for t in template if isinstance(t, dict) and t.get("name") == "default"), None
        )
    return template if isinstance(template, str) else None


def _check(path: Path, content: Mapping[str, Any], vocab_size: int) -> dict[str, int]:
    """A tokenizer.json must hold a model whose ids the embedding has rows for; returns token → id."""
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict | list):
        raise InputError("E1134", f"{path} has no vocabulary", "download the tokenizer files again")
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else list(range(len(vocabulary)))
    if (growth := _growth(content.get("normalizer"))) > MOST_GROWTH:
        raise InputError(
            "E1134",
            f"{path}: its normalizer makes a character into up to {growth:.0f}, {MOST_GROWTH} are allowed",
            "download the tokenizer files again; if you don't know where they come from, don't use them",
        )
    added = content.get("added_tokens") or []
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    if not all(type(number) is int and number >= 0 for number in ids):
        raise InputError("E1134", f"{path} has token ids that are not numbers", "download the tokenizer files again")
    if ids and max(ids) >= vocab_size:
        raise _too_large(path, max(ids) + 1, vocab_size)
    found = dict(vocabulary) if isinstance(vocabulary, dict) else {}
    if isinstance(added, list):
        found |= {t["content"]: t["id"] for t in added if isinstance(t, dict) and isinstance(t.get("content"), str)}
    return found


def _growth(normalizer: Any) -> float:
    """How many characters a normalizer makes of one at most: replacements in a sequence multiply.

    Patterns that match nothing at all match everywhere, so what a regular expression finds counts as one character.
    """
    growth, waiting = 1.0, [normalizer]
    while waiting:
        step = waiting.pop()
        if not isinstance(step, dict):
            continue
        parts = step.get("normalizers")
        waiting += parts if isinstance(parts, list) else []
        pattern, content = step.get("pattern"), step.get("content")
        if isinstance(content, str):
            found = pattern.get("String") if isinstance(pattern, dict) else None
            growth *= max(1.0, len(content) / max(1, len(found) if isinstance(found, str) else 1))
    return growth


def _too_large(path: Path, tokens: int, vocab_size: int) -> InputError:
    return InputError(
        "E1134",
        f"{path} has {tokens} tokens, config.json's vocab_size is {vocab_size}",
        "tokenizer and weights must come from the same model",
    )


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


MAX_GAP = 1 << 16  # ids without a token in a row
_RULES = ("lstrip", "rstrip", "single_word")


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
