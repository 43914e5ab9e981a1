"""Sizes as a person writes them on the command line."""

from __future__ import annotations

import re

from xamc.errors import MisuseError

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?\s*", re.IGNORECASE)


def parse_size(text: str, option: str) -> int:
    """Bytes of ``20GB``, ``1.5 GiB``, ``500M`` or ``0``; powers of ten unless there is an ``i``.

    Args:
        text: what was given with `option`.
        option: for the message.

    Raises:
        MisuseError: E1704.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise MisuseError("E1704", f"{option} {text!r} is no size", fix="write for example 20GB, 1.5GiB or 0")
    number, prefix, binary = match.groups()
    power = " kmgt".index(prefix.lower() or " ")
    return int(float(number) * (1024 if binary else 1000) ** power)
