"""A tokenizer's vocabulary, and the tokenizer.json of a byte-level one (gpt2).

Only the Rust library `tokenizers` is used, no torch and no transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from xamc.compiler.frontends.gguf.splits import SPLITTINGS
from xamc.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Token types of SentencePiece's ModelProto and of GGUF.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in id order with what SentencePiece or GGUF says about them.

    Args:
        tokens: strings, in the encoding of the tokenizer's kind.
        types: one of the constants above for each.
        source: the file, for messages.
        scores: SentencePiece's log probabilities, empty for byte-level BPE.
        merges: "left right" pairs, empty for SentencePiece.
        bos_id, eos_id, unk_id, pad_id: special tokens, None where there is none.
        add_bos: whether text starts with the bos token.
        add_eos: whether text ends with the eos token.
        add_space_prefix: whether SentencePiece puts a space before the first word.
        prefix_every_part: whether it does so after each special token as well, or at the start of the text alone.
        collapse_spaces: whether SentencePiece removes leading, trailing and repeated spaces.
        escape_spaces: whether SentencePiece's pieces have ``▁`` for a space.
        charsmap: SentencePiece's compiled normalization table, empty for none.
        unigram: whether SentencePiece's pieces are those of a Unigram model, not of BPE.
        added_rules: id of a token of tokenizer_config.json → its ``lstrip``, ``rstrip``, ``single_word``.
        user_defined_first: whether user-defined pieces are looked for in the text as it is, and what follows one
            starts anew, as llama.cpp does; SentencePiece looks for them in the normalized text.
        remedy: what helps where the vocabulary is invalid.
        other_tokenizer: what helps where tokenizer.json can't say the same.
    """

    tokens: Sequence[str]
    types: Sequence[int]
    source: Path
    scores: Sequence[float] = ()
    merges: Sequence[str] = ()
    bos_id: int | None = None
    eos_id: int | None = None
    unk_id: int | None = None
    pad_id: int | None = None
    add_bos: bool = False
    add_eos: bool = False
    add_space_prefix: bool = False
    prefix_every_part: bool = True
    collapse_spaces: bool = False
    escape_spaces: bool = True
    charsmap: bytes = b""
    unigram: bool = False
    added_rules: Mapping[int, Mapping[str, bool]] = field(default_factory=dict)
    user_defined_first: bool = False
    remedy: str = "download the file again"
    other_tokenizer: str = "put a tokenizer.json of the same model beside it"
    _index: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for number, token in enumerate(self.tokens):
            if self._index.setdefault(token, number) != number:
                raise self.invalid(f"the token {token!r} occurs twice")
        for special in (self.bos_id, self.eos_id, self.unk_id, self.pad_id):
            if special is not None and not 0 <= special < len(self.tokens):
                raise self.invalid(f"a special token has the id {special}, the vocabulary {len(self.tokens)} tokens")

    def invalid(self, what: str) -> InputError:
        return InputError("E1134", f"the tokenizer of {self.source} is invalid: {what}", self.remedy)

    @property
    def index(self) -> Mapping[str, int]:
        """Token → id."""
        return self._index

    def token(self, number: int | None) -> str | None:
        return None if number is None else self.tokens[number]

    def files(
        self, tokenizer_json: bytes, chat_template: str | None = None, named_templates: Mapping[str, str] | None = None
    ) -> dict[str, bytes | Path]:
        """The tokenizer folder: tokenizer.json and the few keys of tokenizer_config.json that chat templates need."""
        templates = {**({"default": chat_template} if chat_template is not None else {}), **(named_templates or {})}
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.token(self.bos_id),
            "eos_token": self.token(self.eos_id),
            "unk_token": self.token(self.unk_id),
            "pad_token": self.token(self.pad_id),
            "add_bos_token": self.add_bos,
            "add_eos_token": self.add_eos,
            "clean_up_tokenization_spaces": False,
            "chat_template": [{"name": name, "template": text} for name, text in sorted(templates.items())]
            if named_templates
            else chat_template,
        }
        content = json.dumps(
            {k: v for k, v in config.items() if v is not None}, ensure_ascii=False, indent=2, sort_keys=True
        )
        return {"tokenizer.json": tokenizer_json, "tokenizer_config.json": content.encode()}


def byte_level_tokenizer(vocabulary: Vocabulary, splits_name: str) -> bytes:
    """tokenizer.json of a byte-level BPE vocabulary (GPT-2's byte alphabet, explicit merges).

    Raises:
        UnsupportedError: E1134 for a way of splitting words that is not in `SPLITTINGS`.
        InputError: E1134 for merges that don't fit the vocabulary.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    splitting = SPLITTINGS.get(splits_name)
    if splitting is None:
        raise UnsupportedError(
            "E1134",
            f"{vocabulary.source}: tokenizer.ggml.pre {splits_name!r} is not supported",
            f"supported: {', '.join(sorted(SPLITTINGS))}; a safetensors checkpoint brings its tokenizer.json",
        )
    pairs: list[tuple[str, str]] = []
    for merge in vocabulary.merges:
        cut = merge.find(" ", 1)
        left, right = merge[:cut], merge[cut + 1 :]
        if left not in vocabulary.index or right not in vocabulary.index or left + right not in vocabulary.index:
            raise vocabulary.invalid(f"the merge {merge!r} has no token")
        pairs.append((left, right))
    tokenizer = Tokenizer(models.BPE(vocab=dict(vocabulary.index), merges=pairs, ignore_merges=splitting.whole_words))
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in splitting.patterns]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return add_specials(tokenizer, vocabulary)


def add_specials(tokenizer: Tokenizer, vocabulary: Vocabulary, user_defined_normalized: bool = False) -> bytes:
    """Adds special tokens and the bos/eos template; returns the JSON.

    Args:
        tokenizer: with model, normalizer and decoder.
        vocabulary: where its tokens come from.
        user_defined_normalized: whether user-defined pieces are looked for in the normalized text, as by SentencePiece.
    """
    from tokenizers import AddedToken, processors

    specials, others = [], []
    for number, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        rules = vocabulary.added_rules.get(number, {})
        if kind in (UNKNOWN, CONTROL):
            specials.append(AddedToken(token, special=True, normalized=False, **rules))
        elif kind == USER_DEFINED:
            normalized = user_defined_normalized and number not in vocabulary.added_rules
            others.append(AddedToken(token, special=False, normalized=normalized, **rules))
    # All at once: each call builds the search for all of them anew.
    tokenizer.add_special_tokens(specials)
    tokenizer.add_tokens(others)
    bos = vocabulary.token(vocabulary.bos_id) if vocabulary.add_bos else None
    eos = vocabulary.token(vocabulary.eos_id) if vocabulary.add_eos else None
    if bos or eos:
        around = [*([bos] if bos else []), "$A", *([eos] if eos else [])]
        pair = [*around, *([bos + ":1"] if bos else []), "$B:1", *([eos + ":1"] if eos else [])]
        special = [(t, vocabulary.index[t]) for t in (bos, eos) if t]
        try:
            tokenizer.post_processor = processors.TemplateProcessing(single=around, pair=pair, special_tokens=special)
        except ValueError as error:  # a template's pieces are written with colons
            raise vocabulary.invalid(f"{bos!r} or {eos!r} can't stand around a text: {error}") from error
    return tokenizer.to_str(pretty=False).encode()
