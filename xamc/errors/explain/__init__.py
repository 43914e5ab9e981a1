"""The catalogue of error codes: one module per area, each with `CODES`, code → explanation."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache

from xamc.errors import MisuseError


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
        near = _nearest(wanted)
        fix = f"did you mean {near}?" if near else "codes look like E1042; errors print theirs"
        raise MisuseError("E1070", f"no error has the code {code!r}", fix)
    return text


def _nearest(wanted: str) -> str | None:
    """The code of the same area whose number is nearest."""
    if not (wanted[:1] == "E" and wanted[1:].isascii() and wanted[1:].isdigit() and len(wanted) == 5):
        return None
    same_area = [code for code in catalogue() if code[:3] == wanted[:3]]
    return min(same_area, key=lambda code: abs(int(code[1:]) - int(wanted[1:])), default=None)
