"""Tokenizers of every kind in small, and what the files beside them may say."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = [
    "The quick brown fox jumps over the lazy dog, again and again.",
    "a compiler takes a model to an artifact; the artifact runs where the model could not.",
    "numbers 12345 and code: for i in range(10): print(i)",
    "it's don't we've I'm you're . , ! ?",
] * 5
SPECIALS = ["<unk>", "<s>", "</s>"]
IM_START, IM_END = "<|im_start|>", "<|im_end|>"


def _trained(kind: str, trainer: Any, tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return _trained("", trainers.WordLevelTrainer(special_tokens=SPECIALS), tokenizer)


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(
        "", trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIALS, initial_alphabet=alphabet), tokenizer
    )


def _metaspace() -> Tokenizer:
    """As Llama 2's: pieces with ▁, bytes for what has no piece, BOS in front."""
    tokens = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trained = _trained("", trainers.BpeTrainer(vocab_size=380, special_tokens=tokens), tokenizer)
    document = json.loads(trained.to_str())
    document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] in SPECIALS]
    trained = Tokenizer.from_str(json.dumps(document))
    trained.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return trained


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=SPECIALS, unk_token="<unk>")
    return _trained("", trainer, tokenizer)


_KINDS = {"word_level": _word_level, "byte_level": _byte_level, "metaspace": _metaspace, "unigram": _unigram}
KINDS = tuple(_KINDS)


@cache
def tokenizer_json(kind: str) -> str:
    """The tokenizer.json of one kind, with ``<unk>``, ``<s>`` and ``</s>`` as its special tokens."""
    return _KINDS[kind]().to_str()


def size_of(kind: str) -> int:
    """Tokens of a kind."""
    return int(Tokenizer.from_str(tokenizer_json(kind)).get_vocab_size())


def entry(text: str, **flags: bool) -> dict[str, Any]:
    """An entry of ``added_tokens_decoder``."""
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {"content": text, **plain, **flags}


def write_folder(
    path: Path,
    kind: str,
    config: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    files: dict[str, Any] | None = None,
    plain: tuple[str, ...] = (),
    **parts: Any,
) -> Path:
    """The tokenizer's part of a checkpoint folder.

    Args:
        path: of the new folder.
        kind: one of `KINDS`.
        config: of config.json.
        settings: of tokenizer_config.json, on top of the names of the three special tokens; None leaves it out.
        files: name → text, or a JSON value.
        plain: tokens that tokenizer.json adds and holds as not special.
        **parts: replaces parts of tokenizer.json.
    """
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_str(tokenizer_json(kind))
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    document = {**json.loads(tokenizer.to_str()), **parts}
    (path / "tokenizer.json").write_text(json.dumps(document))
    (path / "config.json").write_text(json.dumps({"model_type": "llama"} | (config or {})))
    if settings is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(settings))
    for name, content in (files or {}).items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return path
