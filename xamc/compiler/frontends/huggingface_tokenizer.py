"""Tokenizer files of a Hugging Face folder: tokenizer.json as it is, or built from SentencePiece's tokenizer.model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xamc.compiler.contract import ModelConfig
from xamc.compiler.errors import InputError
from xamc.compiler.frontends.bpe import CONTROL, USER_DEFINED, Vocabulary, sentencepiece_tokenizer
from xamc.compiler.frontends.json_file import read_json, read_text
from xamc.compiler.frontends.sentencepiece_model import read_sentencepiece

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
    """The artifact's tokenizer folder, the chat template, and the files both were read from."""

    files: Mapping[str, bytes | Path]
    chat_template: str | None
    sources: tuple[Path, ...]


def tokenizer_files(folder: Path, config: ModelConfig) -> TokenizerFiles:
    """Reads and checks the tokenizer of `folder`.

    Raises:
        InputError: E1103 damaged JSON, E1134 no tokenizer or one that doesn't fit the model.
        UnsupportedError: E1134 a SentencePiece model of another kind than BPE.
    """
    config_file, template_file = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    settings = read_json(config_file) if config_file.exists() else {}
    template = read_text(template_file) if template_file.exists() else _default_template(settings)
    sources = [path for path in (config_file, template_file) if path.exists()]
    files: dict[str, bytes | Path] = {}
    ready, model = folder / "tokenizer.json", folder / "tokenizer.model"
    if ready.exists():
        _check(ready, read_json(ready), config.vocab_size)
        files["tokenizer.json"] = ready
        sources.append(ready)
    elif model.exists():
        vocabulary = _with_added_tokens(read_sentencepiece(model), settings)
        if len(vocabulary.tokens) > config.vocab_size:
            raise _too_large(model, len(vocabulary.tokens), config.vocab_size)
        files["tokenizer.json"] = sentencepiece_tokenizer(vocabulary)
        sources.append(model)
    else:
        raise InputError(
            "E1134",
            f"{folder} holds neither tokenizer.json nor tokenizer.model",
            "download the tokenizer files as well",
        )
    kept = {key: settings[key] for key in _CONFIG_KEYS if settings.get(key) is not None} | {
        "tokenizer_class": "PreTrainedTokenizerFast"
    }
    if template is not None:
        kept["chat_template"] = template
    files["tokenizer_config.json"] = json.dumps(kept, ensure_ascii=False, indent=2, sort_keys=True).encode()
    return TokenizerFiles(files, template, tuple(sources))


def _default_template(settings: Mapping[str, Any]) -> str | None:
    """The chat template of tokenizer_config.json: a string, or the one named default of a list."""
    template = settings.get("chat_template")
    if isinstance(template, list):
        template = next(
            (t.get("template") for t in template if isinstance(t, dict) and t.get("name") == "default"), None
        )
    return template if isinstance(template, str) else None


def _check(path: Path, content: Mapping[str, Any], vocab_size: int) -> None:
    """A tokenizer.json must hold a model whose ids the embedding has rows for."""
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict | list):
        raise InputError("E1134", f"{path} has no vocabulary", "download the tokenizer files again")
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else list(range(len(vocabulary)))
    added = content.get("added_tokens") or []
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    if not all(type(number) is int and number >= 0 for number in ids):
        raise InputError("E1134", f"{path} has token ids that are not numbers", "download the tokenizer files again")
    if ids and max(ids) >= vocab_size:
        raise _too_large(path, max(ids) + 1, vocab_size)


def _too_large(path: Path, tokens: int, vocab_size: int) -> InputError:
    return InputError(
        "E1134",
        f"{path} has {tokens} tokens, config.json's vocab_size is {vocab_size}",
        "tokenizer and weights must come from the same model",
    )


def _with_added_tokens(vocabulary: Vocabulary, settings: Mapping[str, Any]) -> Vocabulary:
    """`vocabulary` with the tokens that tokenizer_config.json's added_tokens_decoder puts at or after its end.

    InternLM2's chat models give reserved pieces of their SentencePiece model a new name this way (``<|im_end|>``).
    """
    tokens, types, scores = list(vocabulary.tokens), list(vocabulary.types), list(vocabulary.scores)
    added = settings.get("added_tokens_decoder")
    for key, entry in sorted((added if isinstance(added, dict) else {}).items(), key=lambda item: item[0].zfill(12)):
        if not key.isdecimal() or not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise vocabulary.invalid(f"added_tokens_decoder has the entry {key!r}: {entry!r}")
        number, kind = int(key), CONTROL if entry.get("special", False) else USER_DEFINED
        if number > len(tokens):
            raise vocabulary.invalid(f"added_tokens_decoder names the id {number}, the last token is {len(tokens) - 1}")
        if number == len(tokens):
            tokens.append(entry["content"])
            types.append(kind)
            scores.append(0.0)
        elif tokens[number] != entry["content"]:
            tokens[number], types[number] = entry["content"], kind
    index = {token: number for number, token in enumerate(tokens)}

    def special(key: str, fallback: int | None) -> int | None:
        value = settings.get(key)
        text = value.get("content") if isinstance(value, dict) else value
        return index.get(text, fallback) if isinstance(text, str) else fallback

    return replace(
        vocabulary,
        tokens=tokens,
        types=types,
        scores=scores,
        bos_id=special("bos_token", vocabulary.bos_id),
        eos_id=special("eos_token", vocabulary.eos_id),
        # Every published user of tokenizer.model starts with bos unless it says otherwise (LlamaTokenizer's default).
        add_bos=settings.get("add_bos_token", True) is True,
        add_eos=settings.get("add_eos_token", False) is True,
    )
