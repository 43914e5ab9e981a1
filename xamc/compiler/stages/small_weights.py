"""Whose weights a compile runs without being asked."""

from __future__ import annotations

#: Bytes; a model with more is only run while compiling when `verify.final` asks for it.
SMALL_WEIGHTS = 2**30
