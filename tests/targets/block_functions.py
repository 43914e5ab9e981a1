"""Functions that worker processes of tests call."""

from __future__ import annotations

import time
from pathlib import Path


def touch(path: Path) -> int:
    """Makes a file."""
    path.touch()
    return 1


def stay(path: Path) -> int:
    """Makes a file, and takes very long after that."""
    path.touch()
    time.sleep(600)
    return 1
