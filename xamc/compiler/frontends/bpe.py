"""tokenizer.json built from a vocabulary: byte-level BPE (gpt2) and SentencePiece BPE (llama).

Only the Rust library `tokenizers` is used, no torch and no transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xamc.compiler.errors import InputError, UnsupportedError

# Token types of SentencePiece's ModelProto and of GGUF.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# llama.cpp's names (tokenizer.ggml.pre) → the expressions that cut text into words, each applied to the
# pieces of the one before.
SPLITS: Mapping[str, tuple[str, ...]] = {
    "gpt-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
    "llama-bpe": (_LLAMA3 % "{1,3}",),
    "llama3": (_LLAMA3 % "{1,3}",),
    "qwen2": (_LLAMA3 % "",),
    "deepseek-r1-qwen": (_LLAMA3 % "",),
}


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
        collapse_spaces: whether SentencePiece removes leading, trailing and repeated spaces.
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
    collapse_spaces: bool = False
    _index: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for number, token in enumerate(self.tokens):
            if self._index.setdefault(token, number) != number:
                raise self.invalid(f"the token {token!r} occurs twice")
        for special in (self.bos_id, self.eos_id, self.unk_id, self.pad_id):
            if special is not None and not 0 <= special < len(self.tokens):
                raise self.invalid(f"a special token has the id {special}, the vocabulary {len(self.tokens)} tokens")

    def invalid(self, what: str) -> InputError:
        return InputError("E1134", f"the tokenizer of {self.source} is invalid: {what}", "download the file again")

    @property
    def index(self) -> Mapping[str, int]:
        """Token → id."""
        return self._index

    def token(self, number: int | None) -> str | None:
        return None if number is None else self.tokens[number]

    def files(self, tokenizer_json: bytes, chat_template: str | None = None) -> dict[str, bytes | Path]:
        """The tokenizer folder: tokenizer.json and the few keys of tokenizer_config.json that chat templates need."""
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.token(self.bos_id),
            "eos_token": self.token(self.eos_id),
            "unk_token": self.token(self.unk_id),
            "pad_token": self.token(self.pad_id),
            "add_bos_token": self.add_bos,
            "add_eos_token": self.add_eos,
            "clean_up_tokenization_spaces": False,
            "chat_template": chat_template,
        }
        text = json.dumps(
            {k: v for k, v in config.items() if v is not None}, ensure_ascii=False, indent=2, sort_keys=True
        )
        return {"tokenizer.json": tokenizer_json, "tokenizer_config.json": text.encode()}


def byte_level_tokenizer(vocabulary: Vocabulary, splits_name: str) -> bytes:
    """tokenizer.json of a byte-level BPE vocabulary (GPT-2's byte alphabet, explicit merges).

    Raises:
        UnsupportedError: E1134 for a way of splitting words that is not in `SPLITS`.
        InputError: E1134 for merges that don't fit the vocabulary.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    if splits_name not in SPLITS:
        raise UnsupportedError(
            "E1134",
            f"{vocabulary.source}: tokenizer.ggml.pre {splits_name!r} is not supported",
            f"supported: {', '.join(sorted(SPLITS))}; the original safetensors checkpoint brings its tokenizer.json",
        )
    pairs: list[tuple[str, str]] = []
    for merge in vocabulary.merges:
        left, _, right = merge.partition(" ")
        if left not in vocabulary.index or right not in vocabulary.index or left + right not in vocabulary.index:
            raise vocabulary.invalid(f"the merge {merge!r} has no token")
        pairs.append((left, right))
    # Llama 3's ranks are those of whole words: a word that is a token is not merged up to it.
    whole_words = splits_name in ("llama-bpe", "llama3")
    tokenizer = Tokenizer(models.BPE(vocab=dict(vocabulary.index), merges=pairs, ignore_merges=whole_words))
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in SPLITS[splits_name]]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return _finish(tokenizer, vocabulary)


def sentencepiece_tokenizer(vocabulary: Vocabulary) -> bytes:
    """tokenizer.json of a SentencePiece BPE vocabulary: merges follow from the scores, unknown characters become bytes.

    SentencePiece joins the neighbouring pair whose joined piece scores best; as ranked merges that is: every split of
    every piece into two pieces, best score first.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers

    if len(vocabulary.scores) != len(vocabulary.tokens):
        raise vocabulary.invalid(f"{len(vocabulary.scores)} scores for {len(vocabulary.tokens)} tokens")
    joinable = {
        t for t, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind in (NORMAL, USER_DEFINED, UNUSED)
    }
    ranked: list[tuple[float, int, int, str, str]] = []
    for number, token in enumerate(vocabulary.tokens):
        if token not in joinable or vocabulary.types[number] != NORMAL:
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in joinable and right in joinable:
                ranked.append(
                    (-vocabulary.scores[number], vocabulary.index[left], vocabulary.index[right], left, right)
                )
    ranked.sort()
    tokenizer = Tokenizer(
        models.BPE(
            vocab=dict(vocabulary.index),
            merges=[(left, right) for *_, left, right in ranked],
            unk_token=vocabulary.token(vocabulary.unk_id),
            fuse_unk=True,
            byte_fallback=BYTE in vocabulary.types,
        )
    )
    steps: list[normalizers.Normalizer] = []
    if vocabulary.collapse_spaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if vocabulary.add_space_prefix:
        steps.append(normalizers.Prepend("▁"))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    undo: list[decoders.Decoder] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if vocabulary.add_space_prefix:
        undo.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(undo)
    return _finish(tokenizer, vocabulary)


def _finish(tokenizer: object, vocabulary: Vocabulary) -> bytes:
    """Adds special tokens and the bos/eos template; returns the JSON."""
    from tokenizers import AddedToken, Tokenizer, processors

    assert isinstance(tokenizer, Tokenizer)
    for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True):
        if kind in (UNKNOWN, CONTROL):
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
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
