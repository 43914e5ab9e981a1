"""Every assumption has a place in the code and in the documentation."""

from pathlib import Path

import pytest

from xamc.targets.vacc.assumptions import ASSUMPTIONS, Assumption, assumption


def test_ids_are_unique() -> None:
    assert len({entry.id for entry in ASSUMPTIONS}) == len(ASSUMPTIONS)
    assert assumption("short-prompts").id == "short-prompts"
    with pytest.raises(KeyError):
        assumption("the card is fast")


@pytest.mark.parametrize("entry", ASSUMPTIONS, ids=lambda entry: entry.id)
def test_it_is_used_and_documented(entry: Assumption, repository: Path) -> None:
    assert entry.used_in and all((repository / path).is_file() for path in entry.used_in)
    row = f"| `{entry.id}` | {entry.statement} | {entry.ground} | {entry.if_wrong} |"
    assert row in (repository / "docs" / "vacc.md").read_text(encoding="utf-8")
