"""docs/ascend.md lists every option, key and assumption, with its ground, and the files they name exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from xamc.targets.ascend.assumptions import ASSUMPTIONS, ATC_OPTIONS, GE_KEYS, SOC_VERSIONS, Assumption, Option

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "ascend.md").read_text(encoding="utf-8")
GROUNDS = {"header": "public header", "documentation": "public documentation", "inferred": "inferred"}


@pytest.mark.parametrize("option", [*ATC_OPTIONS, *GE_KEYS], ids=lambda option: option.name)
def test_an_option_has_its_row(option: Option) -> None:
    row = f"| `{option.name}` | {option.value} | {option.meaning} | {option.why} | {GROUNDS[option.ground]} |"
    assert row in PAGE, row


@pytest.mark.parametrize("item", ASSUMPTIONS, ids=lambda item: item.id)
def test_an_assumption_is_listed(item: Assumption) -> None:
    assert f"| `{item.id}` | {item.statement} | {GROUNDS[item.ground]} | {item.if_wrong} |" in PAGE, item.id
    assert all((ROOT / file).exists() for file in item.used_in)


def test_the_page_lists_the_npus() -> None:
    assert all(f"`{soc}`" in PAGE for soc in SOC_VERSIONS)
