"""The tokenizer that a GGUF file carries in its metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xamc.compiler.errors import InputError, UnsupportedError
from xamc.compiler.frontends.bpe import NORMAL, Vocabulary, byte_level_tokenizer
from xamc.compiler.frontends.chat_defaults import chat_defaults
from xamc.compiler.frontends.gguf_file import GgufFile
from xamc.compiler.frontends.sentencepiece_tokenizer import sentencepiece_tokenizer


def tokenizer_files(
    file: GgufFile, vocab_size: int, model_type: str
) -> tuple[dict[str, bytes | Path], str | None, int | None]:
    """The tokenizer folder's files, the chat template, and where that is the family's own the id that ends a turn.

    Raises:
        InputError: E1134, a missing or contradictory vocabulary.
        UnsupportedError: E1134, a tokenizer of another kind.
    """
    meta = file.metadata

    def get(key: str, default: Any = None) -> Any:
        return meta.get(f"tokenizer.ggml.{key}", default)

    tokens, kind = get("tokens"), get("model")
    if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens) or len(tokens) > vocab_size:
        raise InputError(
            "E1134",
            f"{file.path} has no usable tokenizer.ggml.tokens for a vocabulary of {vocab_size}",
            "convert the model again with its tokenizer",
        )
    types, scores, merges = get("token_type", [NORMAL] * len(tokens)), get("scores", []), get("merges", [])
    for key, values, item in (("token_type", types, int), ("scores", scores, float), ("merges", merges, str)):
        if not isinstance(values, list) or not all(isinstance(v, item) for v in values):
            raise InputError("E1134", f"{file.path}: tokenizer.ggml.{key} is not a list", "convert the model again")
    if len(types) != len(tokens):
        raise InputError(
            "E1134", f"{file.path}: {len(types)} token types for {len(tokens)} tokens", "convert the model again"
        )
    template = meta.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise InputError("E1134", f"{file.path}: tokenizer.chat_template is not a text", "convert the model again")
    spm = kind == "llama"

    def token_id(key: str, default: int | None = None) -> int | None:
        value = get(key, default)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise InputError("E1134", f"{file.path}: tokenizer.ggml.{key} is {value!r}", "convert the model again")
        return value

    vocabulary = Vocabulary(
        tokens=tokens,
        types=types,
        source=file.path,
        scores=scores,
        merges=merges,
        bos_id=token_id("bos_token_id"),
        eos_id=token_id("eos_token_id"),
        unk_id=token_id("unknown_token_id", 0 if spm else None),
        pad_id=token_id("padding_token_id"),
        add_bos=bool(get("add_bos_token", spm or get("pre") in ("llama-bpe", "llama3"))),
        add_eos=bool(get("add_eos_token", False)),
        add_space_prefix=spm and bool(get("add_space_prefix", True)),
    )
    if spm:
        text = sentencepiece_tokenizer(vocabulary)
    elif kind == "gpt2":
        text = byte_level_tokenizer(vocabulary, str(get("pre", "default")))
    else:
        raise UnsupportedError(
            "E1134", f"{file.path}: tokenizer.ggml.model {kind!r} is not supported", "supported: gpt2 and llama"
        )
    defaults = chat_defaults(model_type, vocabulary.index) if template is None else None
    if defaults is not None:
        return vocabulary.files(text, defaults.template), defaults.template, defaults.stop
    return vocabulary.files(text, template), template, None
