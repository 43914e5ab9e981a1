"""Real text that is on every machine with Python: prose of `pydoc_data.topics`, source of the standard library."""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
SOURCE = (
    "English prose of the Python language reference (`pydoc_data.topics`) and Python code of the standard library "
    "(`textwrap`, `inspect`). No Chinese text of this length ships with Python or the packages needed here."
)
_TOPICS = ("compound", "classes", "expressions", "imports", "exceptions", "dynamic-features", "execmodel")
_PROSE_SHARE = 0.75


def prose() -> str:
    """The topics' text, in a fixed order."""
    from pydoc_data.topics import topics

    named = [topics[name] for name in _TOPICS if name in topics]
    return "\n\n".join(named + [topics[name] for name in sorted(set(topics) - set(_TOPICS))])


def code() -> str:
    """Source of two modules of the standard library."""
    return "\n\n".join(inspect.getsource(module) for module in (textwrap, inspect))


def tokens(tokenizer: Path, text: str) -> I64:
    """Token ids of `text`, without special tokens.

    Args:
        tokenizer: a tokenizer.json.
        text: what to encode.
    """
    from tokenizers import Tokenizer

    return np.array(Tokenizer.from_file(str(tokenizer)).encode(text, add_special_tokens=False).ids, np.int64)


def windows(tokenizer: Path, count: int, length: int) -> I64:
    """int64[count, length]: consecutive windows, three quarters prose and the rest code."""
    from_prose = round(count * _PROSE_SHARE)
    rows = [
        tokens(tokenizer, prose())[: from_prose * length],
        tokens(tokenizer, code())[: (count - from_prose) * length],
    ]
    return np.concatenate(rows).reshape(count, length)


def prompt(ids: I64, length: int, repeat: int) -> list[int]:
    """`length` tokens of a text that begin elsewhere at every repeat, so that no cache of prefixes can help."""
    start = repeat * 997 % (len(ids) - length)
    return [int(token) for token in ids[start : start + length]]
