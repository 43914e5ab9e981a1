"""Expected texts under tests/golden, rewritten by `make golden`."""

from __future__ import annotations

import difflib
import os
import re
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


def first_layer(text: str) -> str:
    """The text of a program without the layers after the first, which repeat it (a window's mask is kept)."""
    kept, skip = [], False
    for line in text.splitlines():
        heading = re.match(r"  # (.*)", line)
        if heading:
            skip = re.match(r"model\.layers\.[1-9]", heading[1]) is not None
        elif not line.startswith("  "):
            skip = False
        if re.match(r"  (model\.layers|past_\w+|present_\w+|cache_\w+|updated_\w+)\.[1-9]", line) or (
            skip and "SlidingWindow" not in line
        ):
            continue
        kept.append(line)
    return "\n".join(kept) + "\n"
