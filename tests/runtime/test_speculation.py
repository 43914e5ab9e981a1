"""Speculation changes no token: not of greedy or sampled answers, beside others, at ends, or in what is cached behind.

The model is a small one in NumPy whose keys are read from a pool of blocks through the table, as the CPU's kernels do:
logits depend on every token before, so that a wrong length, a stale key or a wrong block shows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xamc.artifact import read_artifact
from xamc.runtime.block_cache import BlockCache
from xamc.runtime.executor import F32, I64, Step
from xamc.runtime.model import Model

BLOCK, LIMIT, SLOTS = 8, 160, 3


class Cyclic:
    """An executor whose next token follows mostly from the last one, and now and then from all before."""

    threads = 1

    def __init__(self, vocabulary: int, draft_rows: int = 32, sharpness: float = 6.0) -> None:
        self.token_rows, self.vocabulary = draft_rows, vocabulary
        self.rows: list[int] = []
        self.pages = BlockCache(BLOCK, LIMIT, SLOTS, self._copy, lambda block, seed: None, None, 32)
        self.pool = np.full((self.pages.blocks, BLOCK), -1)
        g = np.random.default_rng(3)
        self._noise = g.normal(size=(64, vocabulary)).astype(np.float32)
        self._sharpness = sharpness

    def _copy(self, source: int, target: int) -> None:
        self.pool[target] = self.pool[source]

    def clear(self, slot: int) -> None:
        raise AssertionError("it is paged")

    def forward(self, step: Step) -> F32:
        assert len(set(step.slots.tolist())) == len(step.slots)
        return self._run(step)

    def forward_tokens(self, slots: I64, tokens: I64, positions: I64, angles: I64, cos: F32, sin: F32) -> F32:
        assert len(tokens) <= self.token_rows
        assert (angles < len(cos)).all()
        ones = np.ones_like(positions)
        return self._run(Step(tokens[:, None], slots, positions, ones, cos, sin))[:, 0]

    def _run(self, step: Step) -> F32:
        batch, width = step.input_ids.shape
        self.rows.append(batch * width)
        self.pages.reserve(step.slots, step.write_index + step.lengths)
        result = np.zeros((batch, width, self.vocabulary), np.float32)
        for write in (True, False):  # all keys before anything is read
            for row, (slot, start) in enumerate(zip(step.slots.tolist(), step.write_index.tolist())):
                for index in range(int(step.lengths[row])):
                    position = start + index
                    if write:
                        block = self.pages.table[slot, position // BLOCK]
                        assert block > 0
                        self.pool[block, position % BLOCK] = step.input_ids[row, index]
                    else:
                        result[row, index] = self._logits(slot, position)
        return result if step.all_positions else result[np.arange(batch), step.last_index][:, None]

    def _logits(self, slot: int, position: int) -> F32:
        blocks = self.pages.table[slot, : position // BLOCK + 1]
        tokens = self.pool[blocks].reshape(-1)[: position + 1]
        assert (tokens >= 0).all()
        logits = 2 * self._noise[int((tokens * np.arange(1, position + 2)).sum()) % 64]
        logits[(tokens[-1] + 1) % self.vocabulary] += self._sharpness
        result: F32 = logits
        return result


@pytest.fixture
def make(make_artifact: Any, vocab_size: int) -> Callable[..., Model]:
    def build(**of_executor: Any) -> Model:
        changes = of_executor.pop("changes", {})
        folder = make_artifact(context_limit=LIMIT, prefill_chunk=32, **changes)
        return Model(folder, read_artifact(folder).manifest, Cyclic(**{"vocabulary": vocab_size, **of_executor}))

    return build


def steps(model: Model) -> list[int]:
    executor: Any = model.engine.executor
    return executor.rows  # type: ignore[no-any-return]


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(2, 9), min_size=1, max_size=30), min_size=1, max_size=SLOTS),
    temperature=st.sampled_from([0.0, 0.0, 0.7, 1.5]),
    penalty=st.sampled_from([1.0, 1.2]),
    tokens=st.integers(1, 60),
    draft_rows=st.sampled_from([2, 5, 16, 32]),
)
def test_tokens_text_and_ends_are_the_same(
    tmp_path_factory: Any,
    toy: Any,
    toy_code: dict[str, Path],
    tokenizer: Any,
    vocab_size: int,
    prompts: list[list[int]],
    temperature: float,
    penalty: float,
    tokens: int,
    draft_rows: int,
) -> None:
    folder = tmp_path_factory.mktemp("speculation") / "artifact"
    code = toy_code["tvm_cpu"]
    toy.write_artifact(folder, "tvm_cpu", code, tokenizer, vocab_size=vocab_size, context_limit=LIMIT, prefill_chunk=32)
    words = {"temperature": temperature, "repetition_penalty": penalty, "seed": 4, "top_k": 5}
    model, other = (Model(folder, read_artifact(folder).manifest, Cyclic(vocab_size, draft_rows)) for _ in range(2))
    for _ in range(2):  # the second time behind what is cached of the first
        alike = [m.generate(prompts, tokens, speculate=s, **words) for m, s in ((model, None), (other, "ngram"))]
        for plain, drafted in zip(*alike, strict=True):
            assert drafted.token_ids == plain.token_ids
            assert (drafted.text, drafted.finish_reason) == (plain.text, plain.finish_reason)
            assert drafted.reused_tokens == plain.reused_tokens
            assert plain.draft_tokens == plain.accepted_tokens == 0
            assert 0 <= drafted.accepted_tokens <= drafted.draft_tokens


def test_repetition_takes_fewer_steps(make: Callable[..., Model]) -> None:
    prompt = [*range(20, 70), *range(20, 30)]
    plain, model = make(sharpness=30.0), make(sharpness=30.0)
    expected = plain.generate(prompt, 40, ignore_eos=True)
    answer = model.generate(prompt, 40, ignore_eos=True, speculate="ngram")
    assert answer.token_ids == expected.token_ids
    assert answer.accepted_tokens >= 39 - 4
    assert len(steps(model)) <= len(steps(plain)) - answer.accepted_tokens


def test_nothing_is_fed_beyond_what_is_wanted(make: Callable[..., Model]) -> None:
    """Every accepted token is one of the answer, and no step has more rows than there are tokens to come."""
    for tokens in range(1, 12):
        model = make(sharpness=30.0)
        prompt = [*range(20, 40), *range(20, 36)]
        answer = model.generate(prompt, tokens, ignore_eos=True, speculate="ngram")
        assert len(answer.token_ids) == tokens
        assert sum(steps(model)) <= len(prompt) + tokens - 1
    full = make(sharpness=30.0)
    long = [*range(20, 90), *range(20, 75)]
    answer = full.generate(long, ignore_eos=True, speculate="ngram")
    assert (answer.finish_reason, len(answer.token_ids)) == ("context", LIMIT - len(long))
    assert answer.accepted_tokens > 0


def test_an_end_inside_an_accepted_draft(make: Callable[..., Model]) -> None:
    prompt = [*range(40, 70), *range(40, 52)]
    plain, model = make(sharpness=30.0), make(sharpness=30.0)
    whole = plain.generate(prompt, 18, ignore_eos=True)
    ends = 0
    for at, token in enumerate(whole.token_ids):
        for words in ({"eos_token_id": token}, {"stop": plain.tokenizer.decode([token])}):
            expected = plain.generate(prompt, 18, **words)
            answer = model.generate(prompt, 18, speculate="ngram", **words)
            assert answer.token_ids == expected.token_ids and answer.text == expected.text
            assert answer.finish_reason == expected.finish_reason
            ends += answer.accepted_tokens > 0 and len(answer.token_ids) <= at + 1 < 18
    assert ends


@pytest.mark.parametrize("draft_rows", [6, 32])
def test_slots_with_and_without_side_by_side(make: Callable[..., Model], draft_rows: int) -> None:
    """And one that is closed in between: its slot and what it cached serve others. Few rows are shared out."""
    prompts = [[*range(60, 90), *range(60, 70)], [*range(20, 60), *range(20, 40)], [9, 8, 7] * 6]
    alone = [
        make(sharpness=12.0).generate(prompt, 40, ignore_eos=True, temperature=0.3, seed=2).token_ids
        for prompt in prompts
    ]
    model = make(draft_rows=draft_rows, sharpness=12.0)
    engine, words = model.engine, {"ignore_eos": True, "temperature": 0.3, "seed": 2}
    answers = [
        engine.open(prompt, 40, speculate=speculate, **words)
        for prompt, speculate in zip(prompts, ("ngram", "ngram", None))
    ]
    pieces: dict[int, list[int]] = {id(answer): [] for answer in answers}
    for number in range(200):
        if number == 5:
            engine.close(answers[0])
            answers[0] = engine.open(prompts[0], 40, speculate="ngram", **words)
            pieces[id(answers[0])] = []
        for made in engine.step():
            pieces[id(made.answer)] += made.token_ids
        if all(answer.finish_reason for answer in answers):
            break
    for answer, expected in zip(answers, alone, strict=True):
        assert answer.token_ids == expected == pieces[id(answer)]
    assert answers[0].reused > 0
    assert max(steps(model)[3:]) > SLOTS


def test_an_interrupted_answer_leaves_a_cache_to_go_on_from(make: Callable[..., Model]) -> None:
    prompt = [*range(40, 70), *range(40, 52)]
    model = make(sharpness=30.0)
    stream = model.stream(prompt, 40, ignore_eos=True, speculate="ngram")
    first = [piece for piece, _ in zip(stream, range(3), strict=False)]
    assert first
    del stream
    longer = [*prompt, *make(sharpness=30.0).generate(prompt, 30, ignore_eos=True).token_ids]
    again = model.generate(longer, 20, ignore_eos=True, speculate="ngram")
    assert again.token_ids == make(sharpness=30.0).generate(longer, 20, ignore_eos=True).token_ids
    assert again.reused_tokens >= len(prompt) + 8


def test_a_failed_step_of_drafts_is_computed_again(make: Callable[..., Model], monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = [*range(40, 70), *range(40, 52)]
    model = make(sharpness=30.0)
    executor: Any = model.engine.executor
    answer = model.engine.open(prompt, 40, ignore_eos=True, speculate="ngram")
    forward = executor.forward_tokens

    def fails(*rows: Any) -> F32:
        forward(*rows)
        raise RuntimeError("in the middle")

    monkeypatch.setattr(model.engine._slots, "_forward_tokens", fails)
    with pytest.raises(RuntimeError, match="in the middle"):
        while answer.finish_reason is None:
            model.engine.step()
    monkeypatch.undo()
    while answer.finish_reason is None:
        model.engine.step()
    assert answer.displaced == 1
    assert answer.token_ids == make(sharpness=30.0).generate(prompt, 40, ignore_eos=True).token_ids


def test_sampled_answers_have_the_distribution_of_the_model(make: Callable[..., Model]) -> None:
    """Chi-square of four tokens behind a prompt whose drafts are often right, without any seed."""
    vocabulary, count = 5, 4000
    model = make(vocabulary=vocabulary, sharpness=2.0, changes={"with_tokenizer": False})
    prompt = [0, 1, 2, 3, 4, 0, 1]
    words: dict[str, Any] = {"ignore_eos": True, "temperature": 1.0}
    seen = np.zeros([vocabulary] * 4)
    accepted = 0
    for _ in range(count):
        answer = model.generate(prompt, 4, speculate="ngram", **words)
        accepted += answer.accepted_tokens
        seen[tuple(answer.token_ids)] += 1
    expected = np.zeros_like(seen)
    for tokens in itertools.product(range(vocabulary), repeat=3):
        logits = model.logits(np.array([[*prompt, *tokens]]))[0, -4:].astype(np.float64)
        chances = np.exp(logits - logits.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        expected[tokens] = chances[range(3), tokens].prod() * chances[3] * count
    assert accepted > count // 5
    common = expected.reshape(-1) >= 5
    counts = [np.append(a.reshape(-1)[common], a.reshape(-1)[~common].sum()) for a in (seen, expected)]
    chi_square = float(((counts[0] - counts[1]) ** 2 / counts[1]).sum())
    degrees = len(counts[0]) - 1
    # Wilson and Hilferty, 1931: exceeded once in 10,000 runs
    assert chi_square < degrees * (1 - 2 / (9 * degrees) + 3.719 * (2 / (9 * degrees)) ** 0.5) ** 3
