"""What the text target does with the keys of a spec, its own key, and its rule."""

from __future__ import annotations

from collections.abc import Iterator

from xamc.errors import InputError
from xamc.targets.spec_keys import Key, Rule, SpecKeys, SpecValues
from xamc.targets.spec_kinds import Text

COMMENT = "backend.compile.comment"


def _one_line(values: SpecValues) -> Iterator[InputError]:
    comment = values.get(COMMENT)
    if comment is not None and "\n" in comment:
        yield InputError("E1025", f"{COMMENT} has several lines", "write one", values.at(COMMENT))


KEYS = SpecKeys(
    uses={
        "frontend.model_kwargs.tp": ("no effect", "tp becomes 1"),
        COMMENT: ("used", "the first line of the graph's text"),
    },
    keys=(Key(COMMENT, Text(), "A line to put above the graph.", ("no effect", "nobody reads the code")),),
    rules=(Rule((COMMENT,), _one_line),),
)
