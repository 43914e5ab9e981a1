"""The artifact's tokenizer: `tokenizer.json` read by the `tokenizers` library, without transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from xamc.compiler.errors import InputError
from xamc.runtime.executor import I64
from xamc.runtime.memory import return_free_memory

_FIX = "compile the model again from a checkpoint with tokenizer.json (or tokenizer.model), or pass token ids"
_SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


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
        self.special_tokens = _special_tokens(folder / "tokenizer_config.json")

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
        with _no_panics():
            text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return text

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


def _special_tokens(path: Path) -> Mapping[str, str]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError("E1613", f"{path} is not JSON: {error}", _FIX) from error
    found: dict[str, str] = {}
    for name in _SPECIAL_TOKENS:
        value = config.get(name) if isinstance(config, dict) else None
        if isinstance(value, dict):  # an AddedToken
            value = value.get("content")
        if isinstance(value, str):
            found[name] = value
    return found
