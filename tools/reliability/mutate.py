"""Deterministic mutations of a valid input: bytes, tokens of a text format, and values of a JSON document."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
_ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**40, "", "0", "../../etc/passwd",
    "/etc/passwd", "a\0b", "\ud800", "\u202e", "x" * 70_000, [], {}, [[]], [None], {"": {}}, {"a": [1, 2, {"b": None}]},
)  # fmt: skip
_TOKENS = (
    b"{", b"}", b"[", b"]", b'"', b":", b",", b"\n", b"\t", b"- ", b"&a ", b"*a", b"<<: ",
    b"!!python/object:os.system ",
    b"null", b"NaN", b"1e999", b"-0", b"0x", b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b"../", b"file:///", b"%00", b"~",
    b"? ", b"|", b">", b"---\n", b"...\n", b"{%", b"%}", b"{{", b"}}", b"__class__", b".__mro__", b"|attr('__init__')",
    b"[" * 3000, b"{" * 3000, b'{"a":' * 2000, b"9" * 5000, b" " * 4000,
)  # fmt: skip


def mutated(seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """One of `seeds` after one to eight random changes."""
    content = bytearray(rng.choice(seeds))
    if rng.random() < 0.35 and (changed := _json_change(bytes(content), rng)) is not None:
        return changed
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4, 8))):
        rng.choice(_CHANGES)(content, rng, seeds)
    return bytes(content)


def _place(content: bytearray, rng: random.Random) -> int:
    """A random place, most often in the first kilobyte, where headers are."""
    end = len(content) if rng.random() < 0.3 else min(len(content), 1024)
    return rng.randrange(end + 1)


def _flip(content: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    if content:
        content[min(_place(content, rng), len(content) - 1)] ^= 1 << rng.randrange(8)


def _set(content: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    if content:
        content[min(_place(content, rng), len(content) - 1)] = rng.randrange(256)


def _number(content: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    at, width = _place(content, rng), rng.choice((1, 2, 4, 8))
    content[at : at + width] = (rng.choice(_NUMBERS) % 2 ** (8 * width)).to_bytes(width, "little")


def _remove(content: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    at = _place(content, rng)
    del content[at : at + rng.choice((1, 1, 2, 4, 8, 64))]


def _cut(content: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    del content[rng.randrange(len(content) + 1) :]


def _insert(content: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    at = _place(content, rng)
    content[at:at] = rng.choice(_TOKENS)


def _repeat(content: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    at = _place(content, rng)
    part = content[at : at + rng.choice((1, 8, 64, 256))]
    content[at:at] = part * rng.choice((1, 2, 50))


def _splice(content: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    other = rng.choice(seeds)
    at, start = _place(content, rng), rng.randrange(len(other) + 1)
    content[at : at + 32] = other[start : start + rng.choice((8, 64, 512))]


_CHANGES = (_flip, _flip, _set, _number, _number, _remove, _cut, _insert, _insert, _repeat, _splice)


def _json_change(content: bytes, rng: random.Random) -> bytes | None:
    """A JSON document, or safetensors' header, with one value replaced, removed or renamed; None for other formats."""
    start = 0
    if content[:1] != b"{" and content[8:9] == b"{":
        start = 8
    end = start + int.from_bytes(content[:8], "little") if start else len(content)
    try:
        value = json.loads(content[start:end])
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not value:
        return None
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change_value(value, rng)
    text = json.dumps(value, ensure_ascii=True).encode()
    return len(text).to_bytes(8, "little") + text + content[end:] if start else text


def _change_value(value: Any, rng: random.Random) -> None:
    """Walks down to a random place of a document and changes it."""
    while True:
        keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = rng.choice(keys)
        below = value[key]
        if isinstance(below, dict | list) and below and rng.random() < 0.8:
            value = below
            continue
        action = rng.random()
        if action < 0.7:
            value[key] = copy.deepcopy(rng.choice(_ODD))
        elif action < 0.85 or not isinstance(value, dict):
            del value[key]
        else:
            value[rng.choice(("", "auto_map", "../x", "__proto__", "a\0b", "x" * 3000))] = value.pop(key)
        return
