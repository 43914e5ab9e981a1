"""The catalogue of error codes: one module per area, each with `CODES`, code → explanation."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache

from xamc.compiler.errors import MisuseError


@cache
def catalogue() -> Mapping[str, str]:
    """Every code with its explanation, ordered by code."""
    codes: dict[str, str] = {}
    for module in pkgutil.iter_modules(__path__):
        codes |= importlib.import_module(f"{__name__}.{module.name}").CODES
    return dict(sorted(codes.items()))


def explain(code: str) -> str:
    """What an error code means, with an example and the remedy.

    Args:
        code: such as `E1042`; `e1042` and `1042` are understood.

    Raises:
        MisuseError: E1070 for a code that does not exist.
    """
    wanted = code.strip().upper()
    if wanted.isdigit():
        wanted = f"E{wanted}"
    text = catalogue().get(wanted)
    if text is None:
        near = get_close_matches(wanted, catalogue(), 1, 0.6)
        fix = f"did you mean {near[0]}?" if near else "codes look like E1042; errors print theirs"
        raise MisuseError("E1070", f"no error has the code {code!r}", fix)
    return text
