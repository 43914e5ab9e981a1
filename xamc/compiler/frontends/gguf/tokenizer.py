"""The tokenizer that a GGUF file carries in its metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xamc.compiler.frontends.gguf.file import GgufFile
from xamc.compiler.frontends.gguf.special_tokens import read_special_tokens
from xamc.compiler.frontends.gguf.splits import SPLITTINGS
from xamc.compiler.frontends.tokenizers.bpe import NORMAL, Vocabulary, byte_level_tokenizer
from xamc.compiler.frontends.tokenizers.chat_defaults import chat_defaults
from xamc.compiler.frontends.tokenizers.sentencepiece import sentencepiece_tokenizer
from xamc.errors import InputError, UnsupportedError

TEMPLATE_PREFIX = "tokenizer.chat_template."
_REMEDY = "convert the model again with a current llama.cpp and with its tokenizer"


@dataclass(frozen=True)
class GgufTokenizer:
    """What a GGUF file says about text.

    Attributes:
        files: the tokenizer folder's files by name.
        chat_template: the file's template, or the family's own.
        stop: the id that ends a turn of the family's own template.
        bos: the id that starts a text.
        ends: every id that ends a generation.
        named_templates: further templates by name, ``tool_use`` for instance.
        warnings: what is taken otherwise than it may seem; one sentence each.
    """

    files: Mapping[str, bytes | Path]
    chat_template: str | None
    stop: int | None
    bos: int | None
    ends: tuple[int, ...]
    named_templates: Mapping[str, str]
    warnings: tuple[str, ...]


def read_tokenizer(file: GgufFile, vocab_size: int, model_type: str) -> GgufTokenizer:
    """The tokenizer of `file`.

    Raises:
        InputError: E1134, a missing or contradictory vocabulary.
        UnsupportedError: E1134, a tokenizer of another kind; E1163, one that tokenizer.json can't express.
    """
    meta = file.metadata

    def get(key: str, default: Any = None) -> Any:
        return meta.get(f"tokenizer.ggml.{key}", default)

    def flag(key: str, default: bool) -> bool:
        value = get(key, default)
        if not isinstance(value, bool):
            raise _invalid(file, f"tokenizer.ggml.{key} is {value!r}, not true or false")
        return value

    kind = get("model")
    if kind not in ("llama", "gpt2"):
        raise UnsupportedError(
            "E1134",
            f"{file.path}: tokenizer.ggml.model {kind!r} is not supported",
            "supported are gpt2 and llama; use a file of a model that has one of them",
        )
    tokens, types, scores, merges = _vocabulary(file, vocab_size)
    template = meta.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise _invalid(file, "tokenizer.chat_template is not a text")
    special = read_special_tokens(meta, file.path, tokens, types)
    spm = kind == "llama"
    if merges is None and not spm:
        for token, type_ in zip(tokens, special.types, strict=True):
            if type_ == NORMAL and len(token) > 1:
                raise _invalid(file, f"no tokenizer.ggml.merges, without which {token!r} is never formed")
    splits = str(get("pre", "default"))
    splitting = None if spm else SPLITTINGS.get(splits)
    vocabulary = Vocabulary(
        tokens=tokens,
        types=special.types,
        source=file.path,
        scores=scores,
        merges=merges or [],
        bos_id=special.bos,
        eos_id=special.eos,
        unk_id=special.unknown,
        pad_id=special.padding,
        add_bos=flag("add_bos_token", spm or (splitting is not None and splitting.starts_with_bos)),
        add_eos=flag("add_eos_token", False),
        add_space_prefix=spm and flag("add_space_prefix", True),
        user_defined_first=True,
        remedy=_REMEDY,
        other_tokenizer="use the original checkpoint folder with its tokenizer.json",
    )
    text = sentencepiece_tokenizer(vocabulary) if spm else byte_level_tokenizer(vocabulary, splits)
    defaults = chat_defaults(model_type, vocabulary.index) if template is None else None
    stop = None
    if defaults is not None:
        template, stop = defaults.template, defaults.stop
    named = _named_templates(file)
    warnings = [*special.warnings]
    if not spm and "tokenizer.ggml.pre" not in meta:
        warnings.append(
            f"{file.path}: tokenizer.ggml.pre is missing; text is cut as by llama.cpp's default, which may not be how "
            "the model was trained"
        )
    if not special.ends and stop is None:
        warnings.append(f"{file.path}: no token is known to end an answer; tokenizer.ggml.eos_token_id would name one")
    return GgufTokenizer(
        files=vocabulary.files(text, template, named),
        chat_template=template,
        stop=stop,
        bos=special.bos,
        ends=special.ends,
        named_templates=named,
        warnings=tuple(warnings),
    )


def _named_templates(file: GgufFile) -> dict[str, str]:
    """The templates of keys ``tokenizer.chat_template.<name>``.

    Raises:
        InputError: E1134, one that is no text, or whose name can't be a file's.
    """
    found = {}
    for key, value in file.metadata.items():
        name = key.removeprefix(TEMPLATE_PREFIX)
        if name == key:
            continue
        if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
            raise _invalid(file, f"{key} is not a text, or is badly named")
        found[name] = value
    return found


def _vocabulary(file: GgufFile, vocab_size: int) -> tuple[list[str], list[int], list[float], list[str] | None]:
    """Tokens, types, scores and merges, checked.

    Raises:
        InputError: E1134.
    """

    def items(key: str, item: type | tuple[type, ...]) -> list[Any] | None:
        values = file.metadata.get(f"tokenizer.ggml.{key}")
        if values is not None and (not isinstance(values, list) or not all(isinstance(v, item) for v in values)):
            raise _invalid(file, f"tokenizer.ggml.{key} is not a list of the right type")
        return values

    tokens = items("tokens", str)
    if not tokens:
        raise _invalid(file, "tokenizer.ggml.tokens is missing or empty")
    if len(tokens) > vocab_size:
        raise _invalid(file, f"tokenizer.ggml.tokens has {len(tokens)} tokens, token_embd.weight {vocab_size} rows")
    # llama.cpp gives names to empty tokens; two of them would be one token otherwise
    tokens = [token or f"[EMPTY_{number}]" for number, token in enumerate(tokens)]
    types = items("token_type", int) or [NORMAL] * len(tokens)
    scores, merges = items("scores", (int, float)) or [], items("merges", str)
    if len(types) != len(tokens):
        raise _invalid(file, f"{len(types)} token types for {len(tokens)} tokens")
    return tokens, types, [float(score) for score in scores], merges


def _invalid(file: GgufFile, what: str) -> InputError:
    return InputError("E1134", f"{file.path}: {what}", _REMEDY)
