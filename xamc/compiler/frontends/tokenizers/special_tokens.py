"""Special and added tokens of a Hugging Face folder, from all the files that may name them, as transformers reads them.

tokenizer_config.json names special tokens (``bos_token``, ``additional_special_tokens``) and, in its
``added_tokens_decoder``, tokens beside the vocabulary. Where it has none of the latter, special_tokens_map.json
and added_tokens.json count as well, and the former wins over it (`_from_pretrained` of transformers'
tokenization_utils_base.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xamc.errors import InputError

if TYPE_CHECKING:
    from tokenizers import AddedToken

    Token = str | AddedToken

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_EXTRA, _OLD_EXTRA = "extra_special_tokens", "additional_special_tokens"


@dataclass(frozen=True)
class SpecialTokens:
    """What a folder says beside its vocabulary.

    Attributes:
        named: ``bos_token`` and the like → token.
        extra: special tokens without a name.
        added: tokens by the id that the folder gives them, special or not.
        settings: tokenizer_config.json with what special_tokens_map.json and the class add.
    """

    named: Mapping[str, Token]
    extra: Sequence[Token]
    added: Mapping[int, AddedToken]
    settings: Mapping[str, Any]

    def texts(self) -> dict[str, str]:
        """`named` with texts, as chat templates see them."""
        return {name: text_of(token) for name, token in self.named.items()}

    def all_texts(self) -> list[str]:
        """Every special token's text, each once, the named ones first."""
        return list(dict.fromkeys(map(text_of, (*self.named.values(), *self.extra))))

    def to_add(self, known: Sequence[str]) -> list[AddedToken]:
        """What is added to a tokenizer, in this order: added tokens by id, then special tokens that nothing knows.

        Args:
            known: texts of the added tokens that the tokenizer has already.
        """
        from tokenizers import AddedToken

        tokens: list[Token] = [self.added[number] for number in sorted(self.added)]
        texts = {*known, *map(text_of, tokens)}
        for token in (*self.named.values(), *self.extra):
            # one text may come twice, with other flags: the later ones count
            if text_of(token) not in texts and token not in tokens:
                tokens.append(token)
        named = set(self.texts().values())
        return [
            AddedToken(token, special=True) if isinstance(token, str) else _special(token, token.content in named)
            for token in tokens
        ]


def special_tokens(
    source: Path,
    config: Mapping[str, Any],
    tokens_map: Mapping[str, Any],
    added_tokens: Mapping[str, Any],
    ready: Mapping[str, Any] | None,
    named: Mapping[str, str | None],
    extra: Sequence[str] = (),
) -> SpecialTokens:
    """Reads the tokens.

    Args:
        source: the folder, for messages.
        config: tokenizer_config.json.
        tokens_map: special_tokens_map.json.
        added_tokens: added_tokens.json.
        ready: tokenizer.json; None where there is none.
        named: the class's own special tokens, for those that no file names.
        extra: the class's own further special tokens, likewise.

    Raises:
        InputError: E1134, something that is no token.
    """
    reader = _Reader(source)
    values = {key: value for key, value in config.items() if key != "tokenizer_class"}
    if ready is not None:  # its post-processor says what stands round a text
        values.pop("add_bos_token", None)
        values.pop("add_eos_token", None)
    if _OLD_EXTRA in values:
        values.setdefault(_EXTRA, values.pop(_OLD_EXTRA))
    own = {
        key: values.pop(key)
        for key in list(values)
        if key not in NAMES and key.endswith("_token") and isinstance(values[key], str)
    }
    own |= _named_extra(values)
    if "added_tokens_decoder" in values:
        added = dict(reader.decoder(values.pop("added_tokens_decoder")))
    else:
        values |= {key: reader.of_map(key, value, values) for key, value in tokens_map.items()}
        own |= _named_extra(values)
        added = dict(reader.beside(added_tokens, values))
        added |= dict(reader.of_ready(ready)) if ready is not None else {}
    by_text = {token.content: token for token in added.values()}
    values |= {key: default for key, default in named.items() if key not in values and key not in own}
    padding = ready.get("padding") if ready is not None else None
    if isinstance(padding, dict) and isinstance(padding.get("pad_token"), str):
        values.setdefault("pad_token", padding["pad_token"])
    found: dict[str, Token] = {}
    for key in NAMES:
        if (value := values.get(key)) is not None:
            token = reader.token(value, key)
            found[key] = by_text.get(text_of(token), token) if key in config or key in tokens_map else token
    for key in (*named, *(key for key in values if key not in named)):  # a class hands on its own first
        value = values.get(key)
        if key not in NAMES and key.endswith("_token") and not isinstance(value, bool | int | float | None):
            found[key] = reader.token(value, key)
    found |= {key: reader.token(value, key) for key, value in own.items()}
    more = values.get(_EXTRA, values.get(_OLD_EXTRA))
    if isinstance(more, dict):
        found |= {key: reader.token(value, key) for key, value in more.items()}
        more = None
    if more is not None and not isinstance(more, list):
        raise reader.wrong(_EXTRA, more)
    unnamed = [reader.token(value, _EXTRA) for value in (extra if more is None else more)]
    return SpecialTokens(found, unnamed, added, values)


def text_of(token: Token) -> str:
    """A token's text."""
    return token if isinstance(token, str) else token.content


def _named_extra(values: dict[str, Any]) -> dict[str, Any]:
    """Takes special tokens out that ``extra_special_tokens`` holds by name."""
    return values.pop(_EXTRA) if isinstance(values.get(_EXTRA), dict) else {}


def _special(token: AddedToken, named: bool) -> AddedToken:
    """`token`, special if it has a name."""
    from tokenizers import AddedToken

    if token.special or not named:
        return token
    flags = {flag: getattr(token, flag) for flag in _FLAGS if flag != "special"}
    return AddedToken(token.content, special=True, **flags)


@dataclass(frozen=True)
class _Reader:
    """Tokens from JSON values; `source` is named in errors."""

    source: Path

    def wrong(self, key: str, value: object) -> InputError:
        return InputError(
            "E1134",
            f"the tokenizer of {self.source} is invalid: {key} has the entry {value!r}",
            "download the file again",
        )

    def token(self, value: object, key: str) -> Token:
        """A string, or an object with its content and flags."""
        if isinstance(value, str):
            return value
        from tokenizers import AddedToken

        if isinstance(value, AddedToken):
            return value
        # written by an old release of transformers, ``__type`` and no ``special``
        return self.added(value, key, special=not (isinstance(value, dict) and "__type" in value))

    def added(self, value: object, key: str, **defaults: bool) -> AddedToken:
        """An object with ``content`` and the flags of an added token."""
        from tokenizers import AddedToken

        if not isinstance(value, dict) or not isinstance(value.get("content"), str):
            raise self.wrong(key, value)
        flags = {flag: value[flag] for flag in _FLAGS if flag in value}
        if not all(isinstance(flag, bool) for flag in flags.values()):
            raise self.wrong(key, value)
        return AddedToken(value["content"], **(defaults | flags))

    def decoder(self, entries: object) -> Iterator[tuple[int, AddedToken]]:
        """``added_tokens_decoder``: id → token."""
        if not isinstance(entries, dict):
            raise self.wrong("added_tokens_decoder", entries)
        for key, entry in entries.items():
            if not key.isdecimal() or len(key) > 12:
                raise self.wrong("added_tokens_decoder", key)
            yield int(key), self.added(entry, "added_tokens_decoder")

    def of_map(self, key: str, value: object, values: Mapping[str, Any]) -> object:
        """An entry of special_tokens_map.json; a list of further tokens adds to the one of tokenizer_config.json."""
        if isinstance(value, dict) and key != _EXTRA:
            return self.added({**value, "special": True}, key)
        if key != _EXTRA or not isinstance(value, list):
            return value
        known = list(values.get(_EXTRA) or [])
        more = [self.added({**token, "special": True}, key) if isinstance(token, dict) else token for token in value]
        return known + [token for token in more if token not in known]

    def beside(self, entries: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[tuple[int, AddedToken]]:
        """added_tokens.json of older folders: text → id; special is what `values` names."""
        from tokenizers import AddedToken

        named = [values[key] for key in NAMES if values.get(key)]
        more = values.get(_EXTRA)
        named += more if isinstance(more, list) else []
        # objects of tokenizer_config.json are not looked into
        specials = {text_of(value) for value in named if isinstance(value, str | AddedToken)}
        for text, number in entries.items():
            if type(number) is not int or number < 0:
                raise self.wrong("added_tokens.json", f"{text}: {number}")
            special = text in specials
            yield number, AddedToken(text, normalized=not special, special=special)

    def of_ready(self, ready: Mapping[str, Any]) -> Iterator[tuple[int, AddedToken]]:
        """``added_tokens`` of tokenizer.json."""
        for entry in ready.get("added_tokens") or []:
            if not isinstance(entry, dict) or type(entry.get("id")) is not int:
                raise self.wrong("tokenizer.json", entry)
            yield entry["id"], self.added(entry, "tokenizer.json")
