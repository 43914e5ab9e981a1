"""SentencePiece's tokenizer.model, a protobuf message, read without the C++ library.

Fields from sentencepiece_model.proto: ModelProto.pieces = 1 {piece 1, score 2, type 3}, trainer_spec = 2 {model_type 3,
treat_whitespace_as_suffix 24, unk_id 40, bos_id 41, eos_id 42, pad_id 43}, normalizer_spec = 3 {precompiled_charsmap 2,
add_dummy_prefix 3, remove_extra_whitespaces 4, escape_whitespaces 5}.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from xamc.compiler.frontends.tokenizers.bpe import NORMAL, Vocabulary
from xamc.errors import InputError, UnsupportedError

MAX_BYTES = 64 * 2**20
MAX_PIECES = 1 << 22
_MODEL_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


class _Damaged(ValueError):
    pass


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _Damaged("it ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            # int32 fields write negative numbers as 64-bit two's complement.
            return (value - (1 << 64) if value >= 1 << 63 else value), at
    raise _Damaged("a number is longer than 64 bits")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, number or bytes) of one message, in file order."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise _Damaged(f"wire type {kind} is unknown")
        if not 0 <= length <= len(data) - at:
            raise _Damaged(f"a field of {length} bytes passes the end")
        yield tag >> 3, data[at : at + length]
        at += length


def _piece(data: memoryview) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(data):
        if number == 1 and isinstance(value, memoryview):
            text = bytes(value).decode("utf-8")
        elif number == 2 and isinstance(value, memoryview) and len(value) == 4:
            score = struct.unpack("<f", value)[0]
        elif number == 3 and isinstance(value, int):
            kind = value
    return text, score, kind


def _numbers(data: memoryview) -> dict[int, int]:
    return {number: value for number, value in _fields(data) if isinstance(value, int)}


def _check_charsmap(data: bytes) -> None:
    """Walks the compiled normalization table, so that no text can lead the library that uses it out of its bounds.

    The table is a trie as a double array of 32-bit units (github.com/s-yata/darts-clone, dictionary.h), its length in
    bytes before it, and behind it texts that end in NUL, at the offsets that the trie's leaves hold.
    """
    size = int.from_bytes(data[:4], "little")
    if len(data) < 8 or size % 4 or not 4 <= size <= len(data) - 4:
        raise _Damaged("its normalization table has an impossible length")
    units, texts = np.frombuffer(data, "<u4", size // 4, 4).astype(np.int64), data[4 + size :]
    texts.decode("utf-8")
    labels, offsets = units & ((1 << 31) | 0xFF), (units >> 10) << ((units & 512) >> 6)
    seen = np.zeros(len(units), bool)
    characters, front = np.arange(256), np.array([int(offsets[0])])
    seen[0] = True
    while front.size:
        # all places that any next byte leads to
        places = front[:, None] ^ characters[None, :]
        if places.max() >= len(units):
            raise _Damaged("its normalization table points beyond its end")
        matching = labels[places] == characters[None, :]
        matching[:, 0] = False
        nodes = np.unique(places[matching])
        nodes = nodes[~seen[nodes]]
        seen[nodes] = True
        front = nodes ^ offsets[nodes]
        leaves = front[(units[nodes] >> 8 & 1) == 1]
        if leaves.size and leaves.max() >= len(units):
            raise _Damaged("its normalization table points beyond its end")
        for start in units[leaves] & 0x7FFFFFFF:
            if start >= len(texts) or texts[start] & 0xC0 == 0x80 or texts.find(0, start) < 0:
                raise _Damaged("its normalization table has a text beyond its end")


def read_sentencepiece(path: Path) -> Vocabulary:
    """The vocabulary of `path`.

    Raises:
        InputError: E1134, a damaged file.
        UnsupportedError: E1134, a word or char model; E1163, spaces at the end of words.
    """
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, int] = {}
    normalizer: dict[int, int] = {}
    charsmap = b""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _Damaged("it is no regular file")
        if status.st_size > MAX_BYTES:
            raise _Damaged(f"it is larger than {MAX_BYTES} bytes")
        for number, value in _fields(memoryview(path.read_bytes())):
            if not isinstance(value, memoryview):
                continue
            if number == 1:
                pieces.append(_piece(value))
                if len(pieces) > MAX_PIECES:
                    raise _Damaged(f"it has more than {MAX_PIECES} pieces")
            elif number == 2:
                trainer = _numbers(value)
            elif number == 3:
                normalizer = _numbers(value)
                charsmap = next((bytes(v) for n, v in _fields(value) if n == 2 and isinstance(v, memoryview)), b"")
        if not pieces:
            raise _Damaged("it has no pieces")
        if charsmap:
            _check_charsmap(charsmap)
    except OSError as error:
        raise InputError(
            "E1134", f"{path} can't be read: {error.strerror}", "download the tokenizer files again"
        ) from error
    except ValueError as error:
        raise InputError(
            "E1134", f"{path} is not a SentencePiece model: {error}", "download the tokenizer files again"
        ) from error
    kind = _MODEL_KINDS.get(trainer.get(3, 1), "unknown")
    if kind not in ("bpe", "unigram"):
        raise UnsupportedError(
            "E1134",
            f"{path} is a SentencePiece model of type {kind}, supported are bpe and unigram",
            "convert it to tokenizer.json with transformers",
        )
    if trainer.get(24):
        raise UnsupportedError(
            "E1163",
            f"the tokenizer of {path} keeps spaces at the end of words (treat_whitespace_as_suffix), "
            "which tokenizer.json can't express",
            "put a tokenizer.json of the same model beside it",
        )

    def special(field: int, default: int) -> int | None:
        number = trainer.get(field, default)
        return number if 0 <= number < len(pieces) else None

    return Vocabulary(
        tokens=[text for text, _, _ in pieces],
        types=[kind for _, _, kind in pieces],
        scores=[score for _, score, _ in pieces],
        source=path,
        unk_id=special(40, 0),
        bos_id=special(41, 1),
        eos_id=special(42, 2),
        pad_id=special(43, -1),
        add_bos=True,
        add_space_prefix=bool(normalizer.get(3, 1)),
        collapse_spaces=bool(normalizer.get(4, 1)),
        escape_spaces=bool(normalizer.get(5, 1)),
        charsmap=charsmap,
        unigram=kind == "unigram",
    )
