"""Which tokenizer class transformers' AutoTokenizer takes for a folder, and what that class makes of tokenizer.json.

Most classes take tokenizer.json as it stands. Some take only its vocabulary, merges and post-processor and build the
rest anew from their own rules and tokenizer_config.json (``add_prefix_space``, ``legacy``), so that two folders with
the same tokenizer.json give other ids. Those that checkpoints of our families name are written down here, after
transformers 5 (models/llama/tokenization_llama.py and its siblings); the others are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from xamc.compiler.frontends.tokenizers.tokenizer_class_names import UNFOLLOWED
from xamc.errors import UnsupportedError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

AS_IT_STANDS = "TokenizersBackend"
_SAME = frozenset({AS_IT_STANDS, "PythonBackend", "PreTrainedTokenizer", "PreTrainedTokenizerFast", "BloomTokenizer"})
# transformers' own choice by model_type, and the types whose folders it doesn't believe (tokenization_auto.py).
_REGISTERED = MappingProxyType(
    {"internlm2": AS_IT_STANDS, "mistral": AS_IT_STANDS, "qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer"}
)
_DISBELIEVED = frozenset({"internlm2", "qwen2"})

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Rebuilt:
    """A class that builds its tokenizer anew.

    Attributes:
        named: special tokens that it has where tokenizer_config.json doesn't name them.
        extra: further special tokens, likewise.
        build: the tokenizer without vocabulary, from the settings and the text of the unknown token.
        add_bos: whether it puts BOS in front whatever tokenizer.json says; None leaves that to tokenizer.json.
        specials_again: whether every special token is added as such at the end, also one that is a plain added token.
    """

    named: Mapping[str, str | None]
    build: Callable[[Mapping[str, Any], str | None], Tokenizer]
    extra: tuple[str, ...] = ()
    add_bos: bool | None = None
    specials_again: bool = False


def tokenizer_class(model_type: str, settings: Mapping[str, Any], of_config: object, source: Path) -> str:
    """The class's name: `AS_IT_STANDS` or a key of `REBUILT`.

    Classes in Python files of the folder (``auto_map``) are never run; such a folder is read as if it named none.

    Args:
        model_type: of config.json.
        settings: tokenizer_config.json.
        of_config: ``tokenizer_class`` of config.json.
        source: tokenizer_config.json's path, for messages.

    Raises:
        UnsupportedError: E1134, a class with rules of its own that are not written down here.
    """
    named = settings.get("tokenizer_class")
    named = named if isinstance(named, str) and named else None
    hint = named or (of_config if isinstance(of_config, str) and of_config else None)
    registered = _REGISTERED.get(model_type)
    if not _has_python(settings) and registered is not None and hint is not None and _stem(hint) != _stem(registered):
        if registered == AS_IT_STANDS:
            return AS_IT_STANDS
        return _known(registered if model_type in _DISBELIEVED else hint, source)
    if hint is not None:
        return _known(hint, source)
    return registered or AS_IT_STANDS


def _has_python(settings: Mapping[str, Any]) -> bool:
    auto_map = settings.get("auto_map")
    return bool(auto_map.get("AutoTokenizer") if isinstance(auto_map, dict) else auto_map)


def _stem(name: str) -> str:
    return name.removesuffix("Fast")


def _known(name: str, source: Path) -> str:
    if name in _SAME or _stem(name) in _SAME:
        return AS_IT_STANDS
    if _stem(name) in REBUILT:
        return _stem(name)
    if _stem(name) in UNFOLLOWED:
        raise UnsupportedError(
            "E1134",
            f"{source} names tokenizer_class {name}, whose own rules xamc doesn't know",
            f"supported: {', '.join(sorted(REBUILT))}; write PreTrainedTokenizerFast there to take tokenizer.json as "
            "it stands",
        )
    return AS_IT_STANDS  # a class of the folder's own Python files


def _llama(settings: Mapping[str, Any], unk: str | None) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    prefix = settings.get("add_prefix_space") is not False
    scheme = ("always" if settings.get("legacy") else "first") if prefix else "never"
    tokenizer = Tokenizer(models.BPE(fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    undo = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*undo, decoders.Strip(content=" ", left=1)] if prefix else undo)
    return tokenizer


def _code_llama(settings: Mapping[str, Any], unk: str | None) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    scheme = "never" if settings.get("add_prefix_space") is False else "first"
    tokenizer = Tokenizer(models.BPE(unk_token=unk, fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    undo = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    tokenizer.decoder = decoders.Sequence(undo)
    return tokenizer


def _gemma(settings: Mapping[str, Any], unk: str | None) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(unk_token=unk, fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    return tokenizer


def _byte_level() -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models

    tokenizer = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _qwen2(settings: Mapping[str, Any], unk: str | None) -> Tokenizer:
    from tokenizers import Regex, normalizers, pre_tokenizers

    tokenizer = _byte_level()
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(_QWEN2), "isolated")
    prefix = settings.get("add_prefix_space") is True
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(prefix, use_regex=False)])
    return tokenizer


def _gpt2(settings: Mapping[str, Any], unk: str | None) -> Tokenizer:
    from tokenizers import pre_tokenizers

    tokenizer = _byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(settings.get("add_prefix_space") is True)
    return tokenizer


def _gpt_neox(settings: Mapping[str, Any], unk: str | None) -> Tokenizer:
    from tokenizers import normalizers, pre_tokenizers

    tokenizer = _byte_level()
    tokenizer.normalizer = normalizers.NFC()
    trim = settings.get("trim_offsets") is not False
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(settings.get("add_prefix_space") is True, trim_offsets=trim)
    return tokenizer


_INFILL = {
    "prefix_token": "▁<PRE>",
    "middle_token": "▁<MID>",
    "suffix_token": "▁<SUF>",
    "eot_token": "▁<EOT>",
    "fill_token": "<FILL_ME>",
}
_END = "<|endoftext|>"
_SENTENCE = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

REBUILT: Mapping[str, Rebuilt] = MappingProxyType(
    {
        "CodeLlamaTokenizer": Rebuilt(_SENTENCE | _INFILL, _code_llama, tuple(_INFILL.values()), add_bos=True),
        "GPT2Tokenizer": Rebuilt({"bos_token": _END, "eos_token": _END, "unk_token": _END, "pad_token": None}, _gpt2),
        "GPTNeoXTokenizer": Rebuilt(
            {"bos_token": _END, "eos_token": _END, "unk_token": _END, "pad_token": "<|padding|>"},
            _gpt_neox,
            add_bos=False,
        ),
        "GemmaTokenizer": Rebuilt(
            {
                "bos_token": "<bos>",
                "eos_token": "<eos>",
                "unk_token": "<unk>",
                "pad_token": "<pad>",
                "mask_token": "<mask>",
            },
            _gemma,
        ),
        "LlamaTokenizer": Rebuilt(_SENTENCE, _llama),
        "Qwen2Tokenizer": Rebuilt(
            {"bos_token": None, "eos_token": _END, "unk_token": _END, "pad_token": _END}, _qwen2, specials_again=True
        ),
    }
)
