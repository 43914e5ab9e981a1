"""How byte-level BPE cuts a text into words before it merges, by llama.cpp's names (``tokenizer.ggml.pre``).

Source of the expressions and of what else goes by the name: llama.cpp's ``llama-vocab.cpp``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Splitting:
    """One way of cutting text into words.

    Attributes:
        patterns: each is applied to the pieces of the one before; what it doesn't match stays a piece.
        whole_words: whether a word that is a token is taken as it is, without merging up to it.
        starts_with_bos: whether text starts with the bos token unless the file says otherwise.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    starts_with_bos: bool = False


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SHORT_FORMS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = rf"{_SHORT_FORMS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|%s| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_TRIPLES = _WORDS % r"\p{N}{1,3}"
_DIGITS = _WORDS % r"\p{N}"
# Words that a capital letter starts, for the scripts that have capitals.
_UPPER, _LOWER = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s|%s"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_CJK = r"[一-龥぀-ゟ゠-ヿ]+"
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    _CJK,
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
    + _SPACES,
)

_GROUPS: tuple[tuple[str, Splitting], ...] = (
    ("gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 gigachat a.x-4.0 mellum", Splitting((_GPT2,))),
    ("smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", Splitting((r"\p{N}", _GPT2))),
    ("llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2", Splitting((_TRIPLES,), True, True)),
    ("dbrx smaug-bpe chatglm-bpe", Splitting((_TRIPLES,))),
    ("glm4", Splitting((_TRIPLES,), True)),
    ("qwen2 deepseek-r1-qwen kormo megrez stablelm2 hunyuan solar-open grok-2", Splitting((_DIGITS,))),
    ("deepseek-v3 hunyuan-dense joyai-llm", Splitting(_DEEPSEEK3)),
    ("deepseek-coder", Splitting((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}"))),
    ("tekken", Splitting((_CASED % ("", "", r"\p{N}"),), True, True)),
    ("gpt-4o llama4 kanana2", Splitting((_CASED % (_SHORT_FORMS + "?", _SHORT_FORMS + "?", r"\p{N}{1,3}"),))),
    ("default", Splitting((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))),
)
SPLITTINGS: Mapping[str, Splitting] = {name: splitting for names, splitting in _GROUPS for name in names.split()}
"""Every name that is taken."""
