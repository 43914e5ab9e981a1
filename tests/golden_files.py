"""Expected texts under tests/golden, rewritten by `make golden`."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"
UPDATE = "XAMC_GOLDEN_UPDATE"


def check_golden(name: str, text: str) -> None:
    """Compares `text` with tests/golden/<name>, or writes it there when `make golden` runs."""
    path = FOLDER / name
    if os.environ.get(UPDATE):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return
    expected = path.read_text() if path.exists() else ""
    difference = "\n".join(
        difflib.unified_diff(expected.splitlines(), text.splitlines(), f"golden/{name}", "now", lineterm="")
    )
    assert text == expected, f"{difference}\n\nIf this is meant, run `make golden` and read the diff before committing."


def rewrite_text(before: str, after: str) -> str:
    """What a rewrite did to a text: removed and added lines, each run of them with one line of context."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "before", "after", lineterm="", n=1)
    # positions would change with every line above
    return "\n".join("@@" if line.startswith("@@") else line for line in lines) + "\n"
