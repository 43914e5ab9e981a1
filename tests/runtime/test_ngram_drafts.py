"""What is proposed, and how its length follows what became of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xamc.runtime.ngram_drafts import _LONGEST_PAUSE, LONGEST_DRAFT, NgramDrafts


def test_what_followed_the_longest_ngram_is_proposed() -> None:
    assert NgramDrafts().propose([1, 2, 3, 4, 5, 9, 3, 4, 6, 2, 3, 4], 9) == [5, 9, 3]
    assert NgramDrafts().propose([1, 2, 3, 9, 2, 3], 2) == [9, 2]
    assert NgramDrafts().propose([1, 2, 7, 1, 2, 8, 1, 2], 1) == [8], "the latest counts"
    assert NgramDrafts().propose([7, 1, 2, 1, 2], 3) == [1, 2, 1], "a repetition goes on"
    assert NgramDrafts().propose([1, 2, 3], 9) == [], "nothing stood before"
    assert NgramDrafts().propose([1, 2, 1, 2], 0) == []


def test_the_index_grows_with_the_sequence() -> None:
    drafts, tokens = NgramDrafts(), [5, 6, 7]
    assert drafts.propose(tokens, 3) == []
    tokens += [1, 5, 6]
    assert drafts.propose(tokens, 3) == [7, 1, 5]


def test_drafts_that_are_right_get_longer_and_wrong_ones_rest() -> None:
    drafts, tokens = NgramDrafts(), [1, 2] * 40
    lengths = []
    for _ in range(4):
        draft = drafts.propose(tokens, 99)
        lengths.append(len(draft))
        drafts.learn(len(draft), len(draft))
    assert lengths == [3, 7, LONGEST_DRAFT, LONGEST_DRAFT]
    drafts.learn(LONGEST_DRAFT, 4)
    assert len(drafts.propose(tokens, 99)) == 5
    pauses = []
    for _ in range(9):
        drafts.learn(3, 0)
        pauses.append(0)
        while not drafts.propose(tokens, 99):
            pauses[-1] += 1
    assert len(drafts.propose(tokens, 99)) == 1, "a short one is cheap to try"
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 64, 64] and max(pauses) == _LONGEST_PAUSE
    drafts.learn(3, 1)
    assert drafts.propose(tokens, 99), "a right one ends the rests"
    assert (drafts.proposed, drafts.accepted) == (3 + 7 + 15 + 15 + 15 + 27 + 3, 3 + 7 + 15 + 15 + 4 + 1)


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 20), st.lists(st.integers(1, 9)))
def test_a_draft_stood_behind_the_last_tokens_before(tokens: list[int], most: int, pieces: list[int]) -> None:
    """Also when the sequence came in pieces."""
    drafts = NgramDrafts()
    for end in pieces:
        drafts._index(tokens[:end])
    draft = drafts.propose(tokens, most)
    assert len(draft) <= most
    if draft:
        pair = tokens[-2:]
        places = [at for at in range(2, len(tokens)) if tokens[at - 2 : at] == pair]
        assert any(tokens[at : at + len(draft)] == draft[: len(tokens) - at] for at in places)
