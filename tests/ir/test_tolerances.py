"""The one file of tolerances: every entry says why, is used, and is the only place of its number."""

from __future__ import annotations

from pathlib import Path

import pytest

from xamc.ir.tolerances import TOLERANCES, tolerance

REPOSITORY = Path(__file__).parents[2]
SOURCES = "\n".join(
    path.read_text()
    for folder in ("xamc", "tests", "tools")
    for path in (REPOSITORY / folder).rglob("*.py")
    if path.name not in ("tolerances.py", "test_tolerances.py")
)


@pytest.mark.parametrize("name", TOLERANCES)
def test_an_entry_has_a_reason_and_a_user(name: str) -> None:
    entry = TOLERANCES[name]
    assert entry.name == name and entry.value >= 0 and len(entry.reason) > 40
    # some names are put together from a dtype: f"kv_{dtype}"
    composed = f'f"{name.split("_")[0]}_{{'
    assert f'"{name}"' in SOURCES or composed in SOURCES, f"no code and no test uses the tolerance {name}"


def test_unknown_names_fail() -> None:
    with pytest.raises(KeyError):
        tolerance("about_right")
