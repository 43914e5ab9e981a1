"""The artifact's tokenizer: `tokenizer.json` read by the `tokenizers` library, without transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from xamc.errors import InputError
from xamc.runtime.clean_up import clean_up
from xamc.runtime.detokenize import Decoder
from xamc.runtime.executor import I64
from xamc.runtime.memory import return_free_memory

_FIX = "compile the model again from a checkpoint with tokenizer.json (or tokenizer.model), or pass token ids"
_CLEAN_UP = "clean_up_tokenization_spaces"
_CLEAN_UP_BPE = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"


class Tokenizer:
    """Text to token ids and back.

    Attributes:
        special_tokens: names such as ``bos_token`` to their text, as chat templates use them.
    """

    def __init__(self, folder: Path) -> None:
        """Reads `tokenizer.json` and, where present, `tokenizer_config.json` of `folder`.

        Raises:
            InputError: E1613, the file is missing or no tokenizer.
        """
        # Imported here: a run on token ids alone does without the library's 20 MiB.
        import tokenizers

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise InputError("E1613", f"the artifact has no tokenizer: {path} is missing", _FIX)
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise InputError("E1613", f"{path} is not a tokenizer: {error}", _FIX) from error
        # Settings of the training run that would cut or fill what a user gives.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        return_free_memory()  # parsing took several times what is left
        settings = _settings(folder / "tokenizer_config.json")
        self.special_tokens: Mapping[str, str] = _special_tokens(settings)
        # a text that spells a special token is then cut like any other
        self._tokenizer.encode_special_tokens = settings.get("split_special_tokens") is True
        is_bpe = type(self._tokenizer.model).__name__ == "BPE"
        self._cleans_up = settings.get(_CLEAN_UP) is True and (not is_bpe or settings.get(_CLEAN_UP_BPE) is True)

    def encode(self, text: str | bytes, add_special_tokens: bool = True) -> I64:
        """int64[T]; `add_special_tokens` adds what the tokenizer puts round a text, such as BOS.

        Raises:
            InputError: E1613, the tokenizer can't do it, as with a regular expression that takes for ever; E1651, bytes
                that are not UTF-8, or a string that stands for such bytes.
        """
        text = checked_text(text)
        with _no_panics():
            ids = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return np.array(ids, np.int64)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of the ids."""
        text = self._decode(token_ids, skip_special_tokens)
        return clean_up(text) if self._cleans_up else text

    def _decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        with _no_panics():
            text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return text

    @property
    def uncleaned(self) -> Decoder | None:
        """What decodes without taking spaces out before punctuation; None where `decode` takes none out."""
        return _Uncleaned(self._decode) if self._cleans_up else None

    def hidden_in(self, texts: Sequence[str], ends: Collection[int] = ()) -> dict[int, str]:
        """Tokens that stand in no answer and yet in one of the texts, such as stop strings: id → the token's text.

        Args:
            texts: strings that may name tokens.
            ends: ids that end an answer, and are no part of its text either; special tokens never are.
        """
        if not texts:
            return {}
        tokens = self._tokenizer.get_added_tokens_decoder().items()
        found = {number: token.content for number, token in tokens if token.special}
        found |= {number: text for number in ends if (text := self.token(number))}
        return {number: text for number, text in found.items() if text and any(text in other for other in texts)}

    def token(self, token_id: int) -> str | None:
        """The text of one entry of the vocabulary, special or not; None outside it."""
        text: str | None = self._tokenizer.id_to_token(token_id)
        return text


def checked_text(text: str | bytes, what: str = "the text") -> str:
    """The text, if it is one: bytes are read as UTF-8.

    Python keeps bytes of a command line that are no UTF-8 as lone surrogates (PEP 383), which no tokenizer takes.

    Args:
        text: what a user gave.
        what: its name in the error.

    Raises:
        InputError: E1651, with the place of the first wrong byte or character.
    """
    try:
        if isinstance(text, str):
            text.encode()
            return text
        return bytes(text).decode()
    except UnicodeDecodeError as error:
        wrong, at = f"the byte 0x{error.object[error.start]:02x}", error.start
    except UnicodeEncodeError as error:
        code, at = ord(error.object[error.start]), error.start
        wrong = f"the byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"a lone surrogate, U+{code:04X}"
    raise InputError(
        "E1651", f"{what} is not UTF-8: {wrong} stands at position {at}", "convert it, for example with iconv -t UTF-8"
    )


@contextmanager
def _no_panics() -> Iterator[None]:
    """Turns the library's panics into an error: they are no `Exception`, and what it prints of them says little."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        reason = str(error).partition("\n")[0]
        raise InputError("E1613", f"the tokenizer fails on this text: {reason}", _FIX) from None


class _Uncleaned:
    """A `Decoder` of one function."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode

    def decode(self, token_ids: list[int]) -> str:
        return self._decode(token_ids)


def _settings(path: Path) -> Mapping[str, Any]:
    """tokenizer_config.json."""
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError("E1613", f"{path} is not JSON: {error}", _FIX) from error
    return config if isinstance(config, dict) else {}


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """The values of ``bos_token`` and every other ``..._token``, as chat templates name them."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        text = value.get("content") if isinstance(value, dict) else value  # an AddedToken
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found
