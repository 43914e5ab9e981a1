"""A module that a child imports without a package that is there."""

from __future__ import annotations

from typing import Any

try:
    import colorsys
except ModuleNotFoundError:
    colorsys = None  # type: ignore[assignment]


def found(request: Any) -> list[bool]:
    """Whether the package was there when this module was imported, and whether it is now."""
    import colorsys as now

    return [colorsys is not None, now is not None]
