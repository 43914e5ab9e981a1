"""What slots hand to their executor: everything inside the cache, sequences apart, nothing overwritten too early."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xamc.artifact.manifest import Cpu, Generation, KvCache, Manifest, Quantization, Weights
from xamc.errors import InputError
from xamc.runtime.executor import F32, Step
from xamc.runtime.prefill import feed_chunk, feed_prompts
from xamc.runtime.sequence import Group, Sequence
from xamc.runtime.slots import Slots

CAPACITY, CHUNK, VOCAB, SLOTS = 24, 6, 50, 4


class Recorder:
    """An executor whose cache holds token ids, and whose logits name the token they belong to."""

    threads = 1
    pages = None

    def __init__(self) -> None:
        self.cache = np.full((SLOTS, CAPACITY), -1)
        self.widths: list[int] = []

    def clear(self, slot: int) -> None:
        self.cache[slot] = -1

    def forward(self, step: Step) -> F32:
        batch, width = step.input_ids.shape
        self.widths.append(batch * width)
        assert len(set(step.slots.tolist())) == batch and (step.slots >= 0).all() and (step.slots < SLOTS).all()
        assert (step.write_index >= 0).all() and (step.write_index + width <= CAPACITY).all()
        assert (step.table_rows < CAPACITY).all() and (step.lengths > 0).all() and (step.lengths <= width).all()
        assert (step.last_index < width).all()
        logits = np.zeros((batch, width, VOCAB), np.float32)
        for row, (slot, start) in enumerate(zip(step.slots.tolist(), step.write_index.tolist())):
            assert (self.cache[slot, :start] >= 0).all()
            self.cache[slot, start : start + width] = step.input_ids[row]
            for index in range(int(step.lengths[row])):
                position = int(step.table_rows[row, index])
                assert position == start + index
                assert (step.rope_cos[position] ** 2 + step.rope_sin[position] ** 2).min() > 0.99
            logits[row, np.arange(width), step.input_ids[row]] = 1
        if step.all_positions:
            return logits
        return logits[np.arange(batch), step.last_index][:, None]


@pytest.fixture(scope="module")
def manifest(toy: Any) -> Manifest:
    return Manifest(
        name="toy",
        target="tvm_cpu",
        xamc_version="0",
        spec={},
        model=toy.config(VOCAB),
        context_limit=CAPACITY,
        prefill_chunk=CHUNK,
        max_batch=SLOTS,
        kv=KvCache("float32"),
        functions=(),
        phases=(),
        code_file="code/model.so",
        weights=Weights("weights.bin", 0, ()),
        cpu=Cpu("x86-64-v2", ()),
        quantization=Quantization(),
        tokenizer="tokenizer",
        generation=Generation(None, ()),
    )


def sequence(manifest: Manifest, tokens: list[int], group: Group | None = None, keeps: bool = False) -> Sequence:
    return Sequence(np.array(tokens), manifest.model, keeps, group)


def feed(slots: Slots, some: list[Sequence], data: st.DataObject) -> None:
    """A step of some sequences; a function of its own, so that nothing holds one that was dropped."""
    slots.seat(some)
    going = [one for one in some if one.rest > 0]
    if going:
        fed, counts, logits = feed_chunk(slots, going, every := data.draw(st.booleans()))
        for row, (one, count) in enumerate(zip(fed, counts)):
            likely = logits[row].argmax(-1).tolist()
            new = one.tokens[one.cached - count : one.cached]
            assert likely[:count] == new if every else likely == new[-1:]
    behind = [one for one in some if one.rest <= 0 and one.cached < CAPACITY]
    for one in behind:
        if one.cached == len(one.tokens):
            one.tokens.append(data.draw(st.integers(0, VOCAB - 1)))
    if behind:
        for one, row in zip(behind, slots.feed_next(behind)):
            assert row.argmax() == one.tokens[one.cached - 1]


def check(recorder: Recorder, alive: list[Sequence]) -> None:
    """Every sequence that is seated has a slot of its own with its tokens in it."""
    seated = [one.slot for one in alive if one.slot is not None]
    assert len(seated) == len(set(seated)) <= SLOTS
    for one in alive:
        if one.slot is not None:
            # a full row is finished: the padding of later steps may lie on its last entries
            kept = one.cached if one.cached < CAPACITY else CAPACITY - CHUNK
            assert recorder.cache[one.slot, :kept].tolist() == one.tokens[:kept]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_sequences_that_come_and_go_keep_their_tokens(manifest: Manifest, data: st.DataObject) -> None:
    """More than there are slots: who has none any more is fed again, and every token gets its own logits."""
    recorder, alive = Recorder(), []
    slots = Slots(recorder, manifest)
    for _ in range(data.draw(st.integers(1, 25))):
        action = data.draw(st.sampled_from(["open", "close", "drop", "forget", *["feed"] * 4]))
        if action == "open":
            lists = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=CAPACITY - 4), max_size=3)
            prompts = data.draw(lists)
            group = Group(len(prompts))
            alive += [sequence(manifest, prompt, group, data.draw(st.booleans())) for prompt in prompts]
        elif action == "forget":
            slots.forget()
        elif alive and action in ("close", "drop"):
            gone = alive.pop(data.draw(st.integers(0, len(alive) - 1)))
            if action == "close":
                slots.release([gone])
                assert gone.slot is None
            del gone
        elif alive:
            feed(slots, data.draw(st.lists(st.sampled_from(alive), min_size=1, max_size=SLOTS, unique_by=id)), data)
        check(recorder, alive)
    assert max(recorder.widths, default=0) <= max(CHUNK, SLOTS)


def test_more_than_there_is_is_refused(manifest: Manifest) -> None:
    slots = Slots(Recorder(), manifest)
    full, other = sequence(manifest, list(range(CAPACITY))), sequence(manifest, [1, 2, 3])
    slots.seat([full, other])
    feed_prompts(slots, [full, other])
    other.tokens.append(2)
    slots.feed_next([other])
    full.tokens.append(1)
    other.tokens.append(2)
    with pytest.raises(InputError, match=r"E1603.*25 tokens.*limit is 24"):
        slots.feed_next([full, other])
    assert (full.cached, other.cached) == (24, 4)
    with pytest.raises(InputError, match=r"E1604 5 sequences"):
        slots.seat([sequence(manifest, [1]) for _ in range(5)])


def test_padding_never_reaches_beyond_the_cache(manifest: Manifest) -> None:
    """A long prompt next to a short one: the chunk is as narrow as the long one's room."""
    recorder = Recorder()
    slots = Slots(recorder, manifest)
    long, short = sequence(manifest, list(range(23))), sequence(manifest, [1, 2, 3, 41, 42, 43, 44, 45])
    slots.seat([long, short])
    slots.feed([long], [22])
    slots.feed([short], [3])
    feed_prompts(slots, [long, short])
    assert recorder.cache[0, :23].tolist() == list(range(23))
    assert recorder.cache[1, :8].tolist() == short.tokens


def test_rows_of_a_contiguous_cache_are_found_again(manifest: Manifest) -> None:
    slots = Slots(Recorder(), manifest)
    first, second = (sequence(manifest, [start, *range(1, 9)], keeps=True) for start in (7, 8))
    slots.seat([first, second])
    feed_prompts(slots, [first, second])
    slots.release([first, second])
    again = [sequence(manifest, [8, *range(1, 9), 20], keeps=True), sequence(manifest, [7, 1, 2, 30], keeps=True)]
    slots.seat(again)
    assert [(one.slot, one.reused) for one in again] == [(1, 9), (0, 3)]
    slots.release(again)
    anew = sequence(manifest, [8, *range(1, 9), 20])
    slots.seat([anew])
    assert (anew.slot, anew.reused) == (0, 0)
