"""Tokenizer files of a Hugging Face folder: tokenizer.json, or one built from SentencePiece's tokenizer.model.

The ids, texts and prompts are those of transformers' AutoTokenizer for the whole folder; a test compares many shapes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xamc.compiler.frontends.json_file import read_json
from xamc.compiler.frontends.tokenizers.chat_defaults import chat_defaults
from xamc.compiler.frontends.tokenizers.chat_templates import DEFAULT, read_templates
from xamc.compiler.frontends.tokenizers.ready import ready_tokenizer
from xamc.compiler.frontends.tokenizers.sentencepiece import sentencepiece_tokenizer
from xamc.compiler.frontends.tokenizers.sentencepiece_added import with_added_tokens
from xamc.compiler.frontends.tokenizers.sentencepiece_model import read_sentencepiece
from xamc.compiler.frontends.tokenizers.special_tokens import SpecialTokens, special_tokens, text_of
from xamc.compiler.frontends.tokenizers.tokenizer_class import REBUILT, tokenizer_class
from xamc.errors import InputError, UnsupportedError
from xamc.model.config import ModelConfig

MOST_GROWTH = 1000  # characters that a normalizer makes of one
MISTRAL_FIX = 100_000  # tokens; transformers applies fix_mistral_regex to larger vocabularies
# What the runtime uses of tokenizer_config.json beside tokens and templates; auto_map and class names stay behind.
_CONFIG_KEYS = (
    "clean_up_tokenization_spaces",
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
    "model_max_length",
    "split_special_tokens",
)
_SPM_NAMES = {"bos_token": "bos_id", "eos_token": "eos_id", "unk_token": "unk_id"}


@dataclass(frozen=True)
class TokenizerFiles:
    """The artifact's tokenizer folder, the chat templates, and the files both were read from.

    Attributes:
        stop: the id that ends a turn in the chats of this family, whatever the folder says.
        eos: the id of the tokenizer's eos token.
        built_in_template: whether the template is the family's, as the folder brings none.
        named_templates: further templates by name, such as ``tool_use``.
    """

    files: Mapping[str, bytes | Path]
    chat_template: str | None
    sources: tuple[Path, ...]
    stop: int | None = None
    eos: int | None = None
    built_in_template: bool = False
    named_templates: Mapping[str, str] = field(default_factory=dict)


def tokenizer_files(folder: Path, config: ModelConfig, class_of_config: object = None) -> TokenizerFiles:
    """Reads and checks the tokenizer of `folder`.

    Args:
        folder: the checkpoint.
        config: of the model.
        class_of_config: ``tokenizer_class`` of config.json.

    Raises:
        InputError: E1103 damaged JSON, E1134 no tokenizer or one that doesn't fit the model.
        UnsupportedError: E1134 a SentencePiece model that is neither BPE nor Unigram, or a class with rules of its own;
            E1163 a feature of a SentencePiece model.
    """
    read = _Files(folder)
    settings, tokens_map, added = (
        read.json(name) for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
    )
    templates, template_files = read_templates(folder, settings)
    class_name = tokenizer_class(config.model_type, settings, class_of_config, folder / "tokenizer_config.json")
    ready, model = folder / "tokenizer.json", folder / "tokenizer.model"
    if ready.exists():
        content = read.json(ready.name)
        _check(ready, content, config.vocab_size)
        _refuse_mistral_fix(settings, content, folder / "tokenizer_config.json")
        rebuilt = REBUILT.get(class_name)
        named, extra = ({}, ()) if rebuilt is None else (rebuilt.named, rebuilt.extra)
        tokens = special_tokens(folder, settings, tokens_map, added, content, named, extra)
        tokenizer_json, ids = ready_tokenizer(ready, content, class_name, tokens)
    elif model.exists():
        read.sources.append(model)
        if "added_tokens_decoder" not in settings:  # older folders keep special tokens in a file of their own
            settings = {**settings, **tokens_map}
        if class_name == "LlamaTokenizer":  # the space goes before the text alone, as its tokenizer.json has it
            settings = {"legacy": False, **settings}
        vocabulary = with_added_tokens(read_sentencepiece(model), settings, added)
        if len(vocabulary.tokens) > config.vocab_size:
            raise _too_large(model, len(vocabulary.tokens), config.vocab_size)
        tokenizer_json, ids = sentencepiece_tokenizer(vocabulary), dict(vocabulary.index)
        own = {name: vocabulary.token(getattr(vocabulary, key)) for name, key in _SPM_NAMES.items()}
        tokens = special_tokens(folder, settings, {}, added, None, own)
    else:
        raise InputError(
            "E1134",
            f"{folder} holds neither tokenizer.json nor tokenizer.model",
            "download the tokenizer files as well",
        )
    defaults = chat_defaults(config.model_type, ids)
    built_in = defaults is not None and not templates
    if defaults is not None and built_in:
        source = defaults.template
        if "bos_token" not in tokens.named:  # the Python files' own default
            source = source.replace("{{ bos_token }}", "<s>")
        templates = {DEFAULT: source}
    kept = _kept(settings, tokens, templates)
    return TokenizerFiles(
        files={"tokenizer.json": tokenizer_json, "tokenizer_config.json": _json(kept)},
        chat_template=templates.get(DEFAULT),
        sources=(*read.sources, *template_files),
        stop=None if defaults is None else defaults.stop,
        eos=ids.get(tokens.texts().get("eos_token", "")),
        built_in_template=built_in,
        named_templates={name: source for name, source in templates.items() if name != DEFAULT},
    )


class _Files:
    """JSON files of a folder; `sources` are those that were there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.sources: list[Path] = []

    def json(self, name: str) -> dict[str, Any]:
        """What the file holds; nothing where it is absent."""
        path = self._folder / name
        if not path.exists():
            return {}
        self.sources.append(path)
        return read_json(path)


def _kept(settings: Mapping[str, Any], tokens: SpecialTokens, templates: Mapping[str, str]) -> dict[str, Any]:
    """The artifact's tokenizer_config.json, which transformers of any age reads as well."""
    kept: dict[str, Any] = {key: settings[key] for key in _CONFIG_KEYS if settings.get(key) is not None}
    kept.setdefault("clean_up_tokenization_spaces", False)  # old releases take true
    kept |= tokens.texts() | {"tokenizer_class": "PreTrainedTokenizerFast"}
    if tokens.extra:
        kept["additional_special_tokens"] = [text_of(token) for token in tokens.extra]
    if templates.keys() == {DEFAULT}:
        kept["chat_template"] = templates[DEFAULT]
    elif templates:
        kept["chat_template"] = [{"name": name, "template": templates[name]} for name in sorted(templates)]
    return kept


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, indent=2, sort_keys=True).encode()


def _check(path: Path, content: Mapping[str, Any], vocab_size: int) -> None:
    """A tokenizer.json must hold a model whose ids the embedding has rows for."""
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


def _refuse_mistral_fix(settings: Mapping[str, Any], content: Mapping[str, Any], source: Path) -> None:
    """transformers then cuts the words of large vocabularies by another expression than tokenizer.json's."""
    if settings.get("fix_mistral_regex") is True and len(content["model"]["vocab"]) > MISTRAL_FIX:
        raise UnsupportedError(
            "E1134",
            f"{source} sets fix_mistral_regex, which replaces tokenizer.json's way of cutting a text into words",
            "save the tokenizer again with transformers (save_pretrained), which writes it into tokenizer.json",
        )


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
