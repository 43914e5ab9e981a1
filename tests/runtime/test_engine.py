"""The engine: sequences that come and go at any step, each as it would be alone; slots and blocks that come back."""

from __future__ import annotations

import gc
import random
from typing import Any

import numpy as np
import pytest

from xamc.errors import InputError, InternalError, MisuseError
from xamc.model.config import RopeConfig
from xamc.runtime import Answer, Engine, Model, load, slots
from xamc.runtime.executor import Step

PROMPTS = [[5, 6], [7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19], [20], list(range(30, 54))]
TOKENS = 12


@pytest.fixture
def model(toy_path: Any) -> Model:
    loaded: Model = load(toy_path, threads=1)
    return loaded


def finished(engine: Engine, *answers: Answer) -> list[list[int]]:
    while any(answer.finish_reason is None for answer in answers):
        engine.step()
    for answer in answers:
        engine.close(answer)
    return [answer.token_ids for answer in answers]


@pytest.mark.parametrize("seed", range(6))
def test_sequences_join_and_leave_at_any_step(model: Model, toy: Any, vocab_size: int, seed: int) -> None:
    """Some end, some are closed before, calls come in between; whatever is said is what the toy's definition says."""
    chance, engine = random.Random(seed), model.engine
    said: dict[Answer, list[int]] = {}
    expected = {}
    for _ in range(60):
        for answer in [answer for answer in said if answer.finish_reason or chance.random() < 0.05]:
            engine.close(answer)
            tokens = said.pop(answer)
            assert answer.token_ids == tokens == expected.pop(answer)[: len(tokens)]
            assert answer.finish_reason is None or len(tokens) == TOKENS
        if len(said) < engine.slots and chance.random() < 0.4:
            prompt = chance.choice(PROMPTS)
            words = {"ignore_eos": True, "prefix_cache": chance.random() < 0.7}
            answer = engine.open(prompt, TOKENS, **words)
            said[answer], expected[answer] = [], toy.greedy(prompt, TOKENS, vocab_size)
        if chance.random() < 0.1:  # takes slots of others
            answers = model.generate(PROMPTS[1:3], TOKENS, ignore_eos=True)
            assert [one.token_ids for one in answers] == [toy.greedy(p, TOKENS, vocab_size) for p in PROMPTS[1:3]]
        some = None if chance.random() < 0.7 else [answer for answer in said if chance.random() < 0.5]
        for made in engine.step(some):
            assert len(made.token_ids) == 1 and made.finish_reason == made.answer.finish_reason
            said[made.answer] += made.token_ids
        assert engine.answers == list(said)


def test_a_step_gives_a_token_of_each_and_the_text_that_is_certain(model: Model) -> None:
    engine = model.engine
    words = {"ignore_eos": True, "prefix_cache": False}
    whole = [model.generate(prompt, TOKENS, **words) for prompt in PROMPTS[:2]]
    first, second = (engine.open(prompt, TOKENS, **words) for prompt in PROMPTS[:2])
    texts = {first: "", second: ""}
    steps = []
    while first.finish_reason is None or second.finish_reason is None:
        made = engine.step()
        steps.append(len(made))
        for one in made:
            texts[one.answer] += one.text
    # the longer prompt takes a chunk more, and the other one goes on meanwhile
    assert steps[-1] < 2 in steps and sum(steps) == 2 * TOKENS
    assert [first.generation.text, second.generation.text] == list(texts.values()) == [one.text for one in whole]
    assert first.generation.prompt_tokens == 2 and second.generation.finish_reason == "length"
    assert engine.step() == []  # both have ended


def test_options_and_seeds_are_each_sequences_own(model: Model) -> None:
    words: list[dict[str, Any]] = [
        {"temperature": 0.9, "seed": 3},
        {"temperature": 0.9, "seed": 4, "top_p": 0.8, "repetition_penalty": 1.3},
        {"max_new_tokens": 5, "stop": "never said"},
    ]
    words = [{"max_new_tokens": TOKENS, "ignore_eos": True, **one} for one in words]
    alone = [model.generate(PROMPTS[1], **one) for one in words]
    opened = [model.engine.open(PROMPTS[1], **one) for one in words]
    assert finished(model.engine, *opened) == [one.token_ids for one in alone]
    assert len({tuple(one.token_ids) for one in alone}) == 3
    stop = alone[0].text[3:5]
    cut = model.engine.open(PROMPTS[1], **words[0], stop=stop)
    finished(model.engine, cut)
    assert cut.finish_reason == "stop" and cut.text == alone[0].text[: alone[0].text.index(stop)]
    tokens = alone[1].token_ids
    ends = model.engine.open(PROMPTS[1], **words[1] | {"ignore_eos": False}, eos_token_id=tokens[4])
    finished(model.engine, ends)
    assert ends.finish_reason == "eos" and ends.token_ids == tokens[: tokens.index(tokens[4]) + 1]


def test_closing_midway_gives_slot_and_blocks_back(make_artifact: Any, toy: Any, vocab_size: int) -> None:
    model = load(make_artifact(), threads=1)
    engine, pages = model.engine, model.engine.executor.pages
    for steps in range(6):  # within the prompt's chunks, and behind
        opened = [engine.open(prompt, TOKENS, ignore_eos=True, prefix_cache=False) for prompt in PROMPTS[1:]]
        for _ in range(steps):
            engine.step()
        before = pages.held
        engine.close(opened[2])
        engine.close(opened[2])
        assert pages.held < before or not steps
        assert engine.step([opened[2]]) == [] and opened[2] not in engine.answers
        # the slot is free at once, and nobody notices
        joined = engine.open(PROMPTS[3], TOKENS, ignore_eos=True)
        expected = [toy.greedy(PROMPTS[row], TOKENS, vocab_size) for row in (1, 2, 3)]
        assert finished(engine, *opened[:2], joined) == expected
        assert pages.held == 0


def test_an_answer_that_nobody_holds_is_closed(make_artifact: Any) -> None:
    model = load(make_artifact(), threads=1)
    engine = model.engine
    opened = [engine.open(PROMPTS[3], TOKENS, ignore_eos=True) for _ in range(3)]
    engine.step()
    assert engine.executor.pages.held > 0
    del opened
    gc.collect()
    assert engine.answers == []
    finished(engine, engine.open([1], 2, ignore_eos=True))
    assert engine.executor.pages.held == 0


def test_more_than_there_are_slots_is_refused(model: Model) -> None:
    engine = model.engine
    opened = [engine.open(prompt, 2, ignore_eos=True) for prompt in PROMPTS[:3]]
    with pytest.raises(InputError, match=r"E1604 all 3 slots are taken.*close an answer"):
        engine.open(PROMPTS[3])
    stream = model.stream(PROMPTS[3], 2, ignore_eos=True)
    next(iter(stream))
    with pytest.raises(InputError, match=r"E1604 4 sequences"):
        engine.step([*opened, *stream._events._answers])
    engine.close(opened[0])
    engine.open(PROMPTS[3])


def test_more_than_memory_holds_is_refused(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is open as much is counted as it will come to."""
    engine = model.engine
    monkeypatch.setattr(slots, "available_bytes", lambda: 9_000)  # 64 bytes a token
    opened = [engine.open([1], 40) for _ in range(3)]
    engine.close(opened.pop())
    monkeypatch.setattr(slots, "available_bytes", lambda: 6_000)
    with pytest.raises(InputError, match=r"E1606 the KV cache of 1 x 41 tokens beside the 82 of open sequences"):
        engine.open([1], 40)
    with pytest.raises(InputError, match=r"E1606 .* beside the 82"):
        model.generate([1], 40)
    assert len(engine.answers) == 2


def test_streams_that_wait_give_way_where_memory_is_short(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = model.stream(PROMPTS[3], 8, ignore_eos=True)
    next(iter(stream))
    (waiting,) = stream._events._answers
    pages = model.engine.executor.pages
    written = 0 if pages is None else pages.touched * pages.block
    monkeypatch.setattr(slots, "available_bytes", lambda: (47 - written) * 64)
    with pytest.raises(InputError, match="E1606"):
        model.generate([1], 47)
    assert waiting.slot is None and waiting.displaced == 1
    monkeypatch.setattr(slots, "available_bytes", lambda: (48 - written) * 64)
    model.generate([1], 47)
    monkeypatch.undo()
    assert stream.generation.token_ids == model.generate(PROMPTS[3], 8, ignore_eos=True).token_ids


def test_what_means_nothing_is_refused(model: Model) -> None:
    for prompt, code in (([], "E1605"), ([10**6], "E1602"), ("text", "E1605"), (list(range(48)), "E1603")):
        with pytest.raises(InputError, match=code):
            model.engine.open(prompt)
    for words in ({"num_return_sequences": 2, "temperature": 1.0}, {"top_q": 1}):
        with pytest.raises(MisuseError, match="E1612"):
            model.engine.open([1], **words)
    assert model.engine.answers == []


def test_prefixes_are_shared_with_those_that_run(make_artifact: Any, toy: Any, vocab_size: int) -> None:
    model = load(make_artifact(), threads=1)
    engine = model.engine
    system = list(range(20, 37))
    first = engine.open([*system, 50], TOKENS, ignore_eos=True)
    while not first.token_ids:
        engine.step()
    second = engine.open([*system, 60], TOKENS, ignore_eos=True)
    engine.step()
    assert (first.reused, second.reused) == (0, 16)
    assert finished(engine, first, second) == [toy.greedy([*system, last], TOKENS, vocab_size) for last in (50, 60)]


def test_rows_have_their_own_dynamic_base(make_artifact: Any, toy: Any, vocab_size: int) -> None:
    """16 were trained; one sequence crosses the limit beside others that don't, that have, and that join meanwhile."""
    config = toy.config(vocab_size, RopeConfig("dynamic", 100.0, factor=2.0))
    path = make_artifact(model=config)
    prompts = [list(range(3, 13)), list(range(40, 62)), [9, 8, 7]]
    alone = [load(path, threads=1).generate(prompt, TOKENS, ignore_eos=True).token_ids for prompt in prompts]
    engine = load(path, threads=1).engine
    opened = []
    for prompt in prompts:
        opened.append(engine.open(prompt, TOKENS, ignore_eos=True))
        for _ in range(4):
            engine.step()
    assert finished(engine, *opened) == alone


class Failing:
    """An executor that fails when asked to, and leaves nothing of its cache as it was."""

    def __init__(self, executor: Any) -> None:
        self._executor, self.is_broken = executor, False
        self.threads, self.pages = executor.threads, executor.pages

    def clear(self, slot: int) -> None:
        self._executor.clear(slot)

    def forward(self, step: Step) -> np.ndarray:
        logits: np.ndarray = self._executor.forward(step)
        if self.is_broken:
            for pool in getattr(self._executor, "_pools", ()):
                pool[...] = 99
            for slot in range(3):
                self.clear(slot)
            raise InternalError("E1617", "broken", "don't")
        return logits


def test_after_a_failure_all_go_on(model: Model, toy: Any, vocab_size: int) -> None:
    executor = Failing(model.engine.executor)
    engine = Model(model.path, model.manifest, executor).engine
    opened = [engine.open(prompt, TOKENS, ignore_eos=True) for prompt in PROMPTS[1:]]
    for broken_at in (0, 1, 2, 3, 5, 8):
        while len(opened[0].token_ids) < broken_at:
            engine.step()
        executor.is_broken = True
        with pytest.raises(InternalError):
            engine.step()
        executor.is_broken = False
    assert finished(engine, *opened) == [toy.greedy(prompt, TOKENS, vocab_size) for prompt in PROMPTS[1:]]
    assert all(answer.displaced == 6 for answer in opened)


def test_the_program_of_one_token_runs_what_is_alone_in_a_step(make_artifact: Any, toy: Any, vocab_size: int) -> None:
    """In whatever slot it sits."""
    model = load(make_artifact(), threads=1)
    executor, calls = model.engine.executor, []

    def forward_one(slot: int, token: int, position: int, cos: Any, sin: Any) -> np.ndarray:
        calls.append((slot, position))
        numbers = [np.array([number]) for number in (slot, position, 1)]
        logits: np.ndarray = executor.forward(Step(np.array([[token]]), *numbers, cos, sin))
        return logits[:, 0]

    executor.forward_one = forward_one
    engine = Model(model.path, model.manifest, executor).engine
    first, second = (engine.open(prompt, TOKENS, ignore_eos=True) for prompt in (PROMPTS[0], PROMPTS[2]))
    engine.step()
    assert not calls
    engine.close(first)
    assert finished(engine, second) == [toy.greedy(PROMPTS[2], TOKENS, vocab_size)]
    assert calls == [(1, position) for position in range(1, TOKENS)]
