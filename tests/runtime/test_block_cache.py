"""The paged cache against a pool of token ids: whatever rows share, copy or evict, each finds its own tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xamc.errors import InternalError
from xamc.model.kv_cache import resident_blocks
from xamc.runtime.block_cache import BlockCache

BLOCK, CONTEXT, ROWS, CHUNK = 4, 20, 3, 3


class Pool:
    """What an executor does with the cache, with token ids for keys."""

    def __init__(self, max_batch: int = ROWS, window: int | None = None, context: int = CONTEXT) -> None:
        self.window = window
        self.cache = BlockCache(BLOCK, context, max_batch, self._copy, self._fill, window, CHUNK)
        self.memory = np.full((self.cache.blocks, BLOCK), -1)
        self.rows: dict[int, list[int]] = {}
        self.copied: list[tuple[int, int]] = []

    def _copy(self, source: int, target: int) -> None:
        self.memory[target] = self.memory[source]
        self.copied.append((source, target))

    def _fill(self, block: int, seed: int) -> None:
        self.memory[block] = 1000 + seed

    def begin(self, prompts: list[list[int]], reuse: bool = True, kind: object = None) -> list[int]:
        """Ends all sequences and opens others in the first slots."""
        self.close(*self.rows)
        return [self.open(index, prompt, reuse, kind) for index, prompt in enumerate(prompts)]

    def open(self, index: int, prompt: list[int], reuse: bool = True, kind: object = None) -> int:
        kept = self.cache.open(index, prompt[:-1], kind, reuse)
        self.rows[index] = prompt[:kept]
        self.check()
        return kept

    def close(self, *indices: int) -> None:
        self.cache.close(indices)
        for index in indices:
            del self.rows[index]
            assert not self.cache.table[index].any()
        self.check()

    def feed(self, index: int, tokens: list[int]) -> None:
        self.cache.reserve(np.array([index]), np.array([len(self.rows[index]) + len(tokens)]))
        for offset, token in enumerate(tokens):
            position = len(self.rows[index]) + offset
            self.memory[self.cache.table[index, position // BLOCK], position % BLOCK] = token
        self.rows[index] += tokens
        self.cache.extend(index, tokens)
        self.check()

    def check(self) -> None:
        for index, row in self.rows.items():
            # what the next token attends to
            first = 0 if self.window is None else max(0, len(row) - self.window + 1)
            blocks = self.cache.table[index, first // BLOCK : -(-len(row) // BLOCK)]
            assert (blocks > 0).all()
            skipped = first - first // BLOCK * BLOCK
            found = self.memory[blocks].ravel()[skipped : skipped + len(row) - first].tolist()
            assert found == row[first:]
        assert self.cache.touched <= self.cache.blocks - 1

    def run(self, prompt: list[int], reuse: bool = True) -> int:
        """A whole request; returns how many tokens were cached."""
        (kept,) = self.begin([prompt], reuse)
        for start in range(kept, len(prompt), CHUNK):
            self.feed(0, prompt[start : start + CHUNK])
        return kept


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_every_row_finds_its_own_tokens(data: st.DataObject) -> None:
    pool = Pool(window=data.draw(st.sampled_from([None, 1, 3, 4, 6, 9, 30])))
    token = st.integers(0, 1)  # few tokens: many equal beginnings
    for _ in range(data.draw(st.integers(1, 8))):
        prompts = data.draw(st.lists(st.lists(token, min_size=1, max_size=CONTEXT), min_size=1, max_size=ROWS))
        kept = pool.begin(prompts, data.draw(st.booleans()), data.draw(st.sampled_from([None, 1])))
        assert all(length < len(prompt) for length, prompt in zip(kept, prompts))
        for index, prompt in enumerate(prompts):
            rest = prompt[kept[index] :]
            while rest:
                step = data.draw(st.integers(1, len(rest)))
                pool.feed(index, rest[:step])
                rest = rest[step:]
        for _ in range(data.draw(st.integers(0, 6))):
            index = data.draw(st.integers(0, len(prompts) - 1))
            if data.draw(st.integers(0, 9)) == 0:
                pool.cache.stop_indexing(index)
            if data.draw(st.integers(0, 19)) == 0:
                pool.cache.forget()
                pool.rows.clear()
                break
            if len(pool.rows[index]) < CONTEXT:
                pool.feed(index, [data.draw(token)])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_sequences_come_and_go(data: st.DataObject) -> None:
    """Each finds its own tokens, and what the last one leaves is no more than a context."""
    pool = Pool(window=data.draw(st.sampled_from([None, 3, 6])))
    token = st.integers(0, 1)
    for _ in range(data.draw(st.integers(1, 40))):
        index = data.draw(st.integers(0, ROWS - 1))
        if index not in pool.rows:
            prompt = data.draw(st.lists(token, min_size=1, max_size=CONTEXT))
            pool.open(index, prompt, data.draw(st.booleans()))
        elif data.draw(st.integers(0, 3)) == 0:
            pool.close(index)
        elif room := CONTEXT - len(pool.rows[index]):
            pool.feed(index, data.draw(st.lists(token, min_size=1, max_size=min(room, CHUNK))))
    pool.close(*pool.rows)
    assert pool.cache.held == 0
    free = int((pool.cache._references[1 : pool.cache.touched + 1] == 0).sum())
    assert pool.cache.touched - free <= pool.cache.resident


def test_a_prompt_that_is_cached_as_a_whole_still_runs_its_last_token() -> None:
    pool = Pool()
    prompt = list(range(8))
    assert pool.run(prompt) == 0
    assert pool.run(prompt) == 7  # three of four tokens of the second block, copied
    assert len(pool.copied) == 1
    assert pool.run([*prompt, 99]) == 8
    assert len(pool.copied) == 1  # whole blocks are shared, not copied
    assert pool.run([7]) == 0


def test_the_next_turn_begins_where_the_last_one_ended() -> None:
    pool = Pool()
    assert pool.run([1, 2, 3, 4, 5, 6]) == 0
    assert pool.run([1, 2, 3, 4, 5, 6, 7, 8, 9]) == 6
    assert pool.run([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]) == 9
    assert pool.run([1, 2, 3, 0, 5]) == 3


def test_switched_off_nothing_is_reused_or_kept() -> None:
    pool = Pool()
    prompt = list(range(9))
    assert [pool.run(prompt, reuse=False) for _ in range(2)] == [0, 0]
    assert pool.run(prompt) == 0
    assert pool.run(prompt, reuse=False) == 0
    assert pool.run(prompt) == 8


def test_another_kind_of_keys_is_another_prefix() -> None:
    pool = Pool()
    for kind, kept in ((40, 0), (41, 0), (40, 8)):
        assert pool.begin([list(range(9))], kind=kind) == [kept]
        pool.feed(0, list(range(kept, 9)))


def test_keys_of_a_base_that_changed_are_not_kept() -> None:
    pool = Pool()
    pool.begin([[*list(range(4)), 9]])
    pool.feed(0, [0, 1, 2, 3])
    pool.cache.stop_indexing(0)
    pool.feed(0, [9, 9, 9, 9])
    assert pool.begin([[0, 1, 2, 3, 9, 9, 9, 9, 9]]) == [4]


def test_the_block_used_longest_ago_goes_first_and_memory_stays_that_of_one_context() -> None:
    pool = Pool()
    prompts = [[10 * n + i for i in range(9)] for n in range(3)]  # three blocks each; a context has five
    for prompt in prompts:
        assert pool.run(prompt) == 0
    assert pool.cache.touched == CONTEXT // BLOCK
    assert pool.run(prompts[2]) == 8  # the last one is whole
    assert pool.run(prompts[0]) == 0  # the first one is gone
    for n in range(50):
        pool.run([100 + n] * 17)
    assert pool.cache.touched == CONTEXT // BLOCK


def test_rows_share_what_is_cached_and_one_of_equal_blocks_is_kept() -> None:
    pool = Pool()
    prompt = list(range(9))
    pool.run(prompt)
    assert pool.begin([prompt, [*prompt[:8], 50, 51]]) == [8, 8]
    assert (pool.cache.table[0, :2] == pool.cache.table[1, :2]).all()
    pool.feed(0, [1])
    pool.feed(1, [2, 3])
    fresh = Pool()
    fresh.begin([prompt, prompt])
    for index in range(2):
        fresh.feed(index, prompt)
    assert (fresh.cache.table[0, :2] == fresh.cache.table[1, :2]).all()
    assert fresh.cache.table[0, 2] != fresh.cache.table[1, 2]


def test_more_than_the_pool_has_is_refused() -> None:
    pool = Pool(max_batch=2)
    pool.cache.blocks -= 1
    pool.begin([[1], [2]], reuse=False)
    with pytest.raises(InternalError, match="E1617"):
        for _ in range(CONTEXT):
            pool.feed(0, [1])
            pool.feed(1, [1])


def test_memory_stops_growing_behind_the_window() -> None:
    context, window = 400, 9
    pool = Pool(window=window, context=context)
    pool.begin([[1]])
    for position in range(context):
        pool.feed(0, [position])
        assert pool.cache.touched <= resident_blocks(context, BLOCK, window, CHUNK) == 4
    assert pool.cache.touched == 4
    plain = Pool(context=context)
    plain.begin([[1]])
    for position in range(context):
        plain.feed(0, [position])
    assert plain.cache.touched == context // BLOCK
    pool.begin([[1]], reuse=False)
    for position in range(context):
        pool.feed(0, [position])
    assert pool.cache.touched == 4


def test_the_next_turn_goes_on_from_what_its_window_reaches() -> None:
    pool = Pool(window=6, context=100)
    first = list(range(50))
    assert pool.run(first) == 0
    assert pool.run([*first, 60, 61, 62]) == 50
    assert pool.run([*first[:20], 70]) == 0  # the blocks before its end are gone
    assert pool.run([*first, 60, 61, 62, 63]) == 20  # behind what that prompt has cached again


def test_a_beginning_is_shared_until_its_room_is_wanted() -> None:
    pool = Pool(window=6, context=100)
    pool.begin([[0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 1, 2, 3, 4, 5, 6, 7, 9]])
    for index, last in enumerate((8, 9)):
        pool.feed(index, [0, 1, 2, 3, 4, 5, 6, 7, last])
    assert pool.cache.table[0, 1] == pool.cache.table[1, 1]
    for token in range(30):
        pool.feed(0, [token])
    pool.feed(1, [1, 2, 3])  # still finds its own


def test_filled_blocks_are_a_prefix() -> None:
    pool = Pool()
    prompt = list(range(18))
    pool.begin([prompt])
    assert pool.cache.fill(0, prompt[:14], 7) == 12
    assert pool.memory[pool.cache.table[0, :3], 0].tolist() == [1007, 1008, 1009]
    assert pool.cache.fill(0, prompt[:14], 7) == 12
    pool.cache.close([0])
    assert pool.cache.open(0, prompt, None, True) == 12
    windowed = Pool(window=6, context=100)
    windowed.begin([list(range(100))])
    assert windowed.cache.fill(0, list(range(90)), 7) == 88
    assert windowed.cache.touched == 4


def test_a_row_that_is_shortened_keeps_what_its_window_reaches() -> None:
    """Tokens that were tried and are taken back give up no block: the next one still sees as far back."""
    pool, window = Pool(window=6, context=60), 6
    pool.open(0, list(range(10)))
    cache = pool.cache
    for kept in range(10, 40):
        slots, lengths = np.zeros(5, np.int64), np.arange(kept + 1, kept + 6)
        cache.reserve(slots, lengths)
        first = (kept + 1 - window) // BLOCK
        assert (cache.table[0, max(first, 0) : (kept + 5 - 1) // BLOCK + 1] > 0).all(), "all that a tried row reads"
        cache.shorten(0, kept + 1)
