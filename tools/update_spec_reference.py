"""Writes what is generated from the key registry: schema.json and the tables of docs/spec.md.

    python tools/update_spec_reference.py

Run it after a change in xamc/compiler/spec/{keys,vamc_keys,xamc_keys,kinds}.py.
"""

from __future__ import annotations

from pathlib import Path

from xamc.compiler.spec.schema import SCHEMA_FILE, reference, schema_text

PAGE = Path(__file__).parents[1] / "docs" / "spec.md"
FIRST_HEADING = "### Top level\n"


def main() -> None:
    """Writes both files; the page keeps everything above its first table."""
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
    head, _, _ = PAGE.read_text(encoding="utf-8").partition(FIRST_HEADING)
    PAGE.write_text(head + reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
