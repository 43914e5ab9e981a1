"""Stop strings: found across pieces, nothing of them streamed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xamc.errors import MisuseError
from xamc.runtime.stop_strings import StopStrings


def run(stops: list[str], pieces: list[str]) -> tuple[list[str], bool]:
    filter_ = StopStrings(stops)
    out = [filter_.push(piece) for piece in pieces]
    return [*out, filter_.flush()], filter_.found


@given(st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.lists(st.text("abc", max_size=4), max_size=12))
def test_streamed_text_is_the_text_before_the_first_stop(stops: list[str], pieces: list[str]) -> None:
    text = "".join(pieces)
    starts = [text.find(stop) for stop in stops if stop in text]
    out, found = run(stops, pieces)
    assert found == bool(starts)
    if not starts:
        assert "".join(out) == text
        return
    # The first stop string to be complete wins; one that starts earlier but ends later in the text has not been
    # seen by then.
    ends = {stop: text.find(stop) + len(stop) for stop in stops if stop in text}
    seen = ""
    for piece in pieces:
        seen += piece
        if any(end <= len(seen) for end in ends.values()):
            break
    cut = min(seen.find(stop) for stop in stops if stop in seen)
    assert "".join(out) == text[:cut]


def test_nothing_of_a_stop_string_is_emitted_early() -> None:
    filter_ = StopStrings(["<end>"])
    assert [filter_.push(piece) for piece in ("a<", "e", "nd", "x")] == ["a", "", "", "<endx"]
    assert filter_.push("b<end") == "b"
    assert filter_.push(">more") == "" and filter_.found
    assert filter_.push("never") == "" and filter_.flush() == ""


def test_held_text_comes_out_at_the_end() -> None:
    filter_ = StopStrings(["stop"])
    assert filter_.push("do not st") == "do not "
    assert filter_.flush() == "st" and not filter_.found


def test_a_prefix_that_restarts_inside_itself() -> None:
    assert run(["aab"], ["a", "a", "a", "b"]) == (["", "", "a", "", ""], True)


def test_empty_stop_string() -> None:
    with pytest.raises(MisuseError, match="E1612"):
        StopStrings([""])


PARTS = st.lists(st.tuples(st.text("abc", max_size=3), st.booleans()), max_size=10)


@given(st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), PARTS)
def test_hidden_pieces_are_looked_at_and_not_shown(stops: list[str], parts: list[tuple[str, bool]]) -> None:
    """What is found is found in the text with hidden pieces; what comes out is what is shown before it."""
    whole, found = run(stops, [piece for piece, _ in parts])
    filter_ = StopStrings(stops)
    out = "".join(filter_.push(piece, shown) for piece, shown in parts) + filter_.flush()
    assert filter_.found == found
    shown = [mark for piece, mark in parts for mark in [mark] * len(piece)]
    before = "".join(whole)
    assert out == "".join(character for character, mark in zip(before, shown) if mark)
