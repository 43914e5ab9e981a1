"""Speculation through compiled kernels: the same answers, token for token, from fewer steps."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from tests.end_to_end.models import I64, Workshop, prompts
from xamc.artifact.step_program import load_step
from xamc.errors import MisuseError, UnsupportedError
from xamc.runtime import Model, load
from xamc.runtime.executors import cpu

TOKENS = 48
KINDS = {
    "w4": {"frontend": {"quantize": {"type": "w4a16_rtn"}}, "backend": {"type": "tvm_cpu", "dtype": "int4"}},
    "fp32": {},
    "w8-kv8": {
        "frontend": {"quantize": {"type": "w8a16_rtn"}},
        "backend": {"type": "tvm_cpu", "dtype": "int8"},
        "runtime": {"kv_dtype": "int8"},
    },
}


def model_of(workshop: Workshop, kind: str) -> Model:
    """A tiny Llama; three slots."""
    sections: dict[str, Any] = {name: dict(section) for name, section in KINDS[kind].items()}
    checkpoint = workshop.checkpoint("llama", "speculation", hidden_size=96, intermediate_size=160)
    shape = {"checkpoint": str(checkpoint), "type": "huggingface", "shape": {"input_ids": [[24], [120]]}}
    sections["frontend"] = {**shape, **sections.get("frontend", {})}
    sections["runtime"] = {"max_batch": 3, **sections.get("runtime", {})}
    return workshop.model(checkpoint, f"speculation-{kind}", **sections)


def texts() -> list[I64]:
    """Prompts that repeat themselves, in part, and none that does."""
    (plain, other), _ = prompts((30, 11))
    return [plain, np.tile(other, 3), np.concatenate([other, plain[:5], other]), np.repeat(other[:2], 6)]


class Steps:
    """Counts the steps of a model."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        slots = model.engine._slots
        for name in ("feed_next", "feed_drafts"):
            monkeypatch.setattr(slots, name, self._counted(getattr(slots, name)))

    def _counted(self, feed: Any) -> Any:
        def run(*arguments: Any) -> Any:
            self.count += 1
            return feed(*arguments)

        return run


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_the_same_and_take_fewer_steps(
    workshop: Workshop, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(workshop, kind)
    steps = Steps(model, monkeypatch)
    accepted = 0
    for ids, sampled in itertools.product(texts(), (False, True)):
        words: dict[str, Any] = {"ignore_eos": True, "prefix_cache": False}
        if sampled:
            words |= {"temperature": 0.7, "top_k": 3, "seed": 5, "repetition_penalty": 1.05}
        plain = model.generate(ids, TOKENS, **words)
        steps.count = 0
        answer = model.generate(ids, TOKENS, speculate="ngram", **words)
        assert answer.token_ids == plain.token_ids
        assert steps.count == TOKENS - 1 - answer.accepted_tokens
        assert answer.accepted_tokens <= answer.draft_tokens
        assert plain.draft_tokens == 0
        accepted += answer.accepted_tokens
    assert accepted > 0, "nothing here repeats itself"


@pytest.mark.parametrize("kind", ["w4"])
def test_an_answer_ends_inside_of_a_draft_where_it_would(workshop: Workshop, kind: str) -> None:
    model = model_of(workshop, kind)
    ids = texts()[1]
    whole = model.generate(ids, TOKENS, ignore_eos=True, prefix_cache=False).token_ids
    for most in range(1, 20):
        answer = model.generate(ids, most, ignore_eos=True, prefix_cache=False, speculate="ngram")
        assert answer.token_ids == whole[:most] and answer.finish_reason == "length"
    for end in dict.fromkeys(whole):
        answer = model.generate(ids, TOKENS, eos_token_id=end, prefix_cache=False, speculate="ngram")
        assert answer.token_ids == whole[: whole.index(end) + 1] and answer.finish_reason == "eos"
    room = model.manifest.context_limit - len(ids)
    plain, answer = (model.generate(ids, ignore_eos=True, prefix_cache=False, speculate=how) for how in (None, "ngram"))
    assert answer.token_ids == plain.token_ids and len(plain.token_ids) == room
    assert answer.finish_reason == plain.finish_reason == "context"


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mistral", {"sliding_window": 70}),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}, "max_position_embeddings": 40}),
    ],
    ids=["window", "dynamic"],
)
def test_tokens_that_are_taken_back_leave_keys_and_angles_as_they_were(
    workshop: Workshop, kind: str, changes: dict[str, Any]
) -> None:
    """Behind a window blocks are given up; a dynamic RoPE gives each length its own angles, and each slot its own."""
    checkpoint = workshop.checkpoint(kind, f"speculation-{kind}", **changes)
    shape = {"checkpoint": str(checkpoint), "type": "huggingface", "shape": {"input_ids": [[24], [420]]}}
    model = workshop.model(checkpoint, f"speculation-{kind}", frontend=shape, runtime={"max_batch": 3})
    engine, drafted, accepted = model.engine, 0, 0
    for ids in texts():
        plain, answer = (
            model.generate(ids, 300, ignore_eos=True, prefix_cache=False, speculate=how) for how in (None, "ngram")
        )
        assert answer.token_ids == plain.token_ids
        drafted, accepted = drafted + answer.draft_tokens, accepted + answer.accepted_tokens
    assert drafted > accepted
    wanted = texts()[1:]
    alone = [model.generate(ids, 150, ignore_eos=True, prefix_cache=False).token_ids for ids in wanted]
    words = {"ignore_eos": True, "prefix_cache": False, "speculate": "ngram"}
    answers = [engine.open(ids, 150, **words) for ids in wanted]
    while any(answer.finish_reason is None for answer in answers):
        engine.step()
    assert [answer.token_ids for answer in answers] == alone
    for answer in answers:
        engine.close(answer)


def test_slots_with_and_without_side_by_side(workshop: Workshop) -> None:
    model = model_of(workshop, "w4")
    wanted = texts()[:3]
    alone = [model.generate(ids, TOKENS, ignore_eos=True, prefix_cache=False).token_ids for ids in wanted]
    engine = model.engine
    for speculating in itertools.product((None, "ngram"), repeat=3):
        answers = [
            engine.open(ids, TOKENS, ignore_eos=True, prefix_cache=False, speculate=how)
            for ids, how in zip(wanted, speculating, strict=True)
        ]
        said: dict[Any, list[int]] = {answer: [] for answer in answers}
        while any(answer.finish_reason is None for answer in answers):
            for made in engine.step():
                said[made.answer] += made.token_ids
        for answer, expected in zip(answers, alone, strict=True):
            assert answer.token_ids == said[answer] == expected
            engine.close(answer)


def test_what_was_cached_is_what_was_said(workshop: Workshop) -> None:
    """The next turn begins with an answer whose drafts were partly wrong, or that was given up in its middle."""
    model = model_of(workshop, "fp32")  # rounding would tell a prompt's keys from an answer's
    for ids in texts():
        answer = model.generate(ids, TOKENS, ignore_eos=True, speculate="ngram")
        after = np.concatenate([ids, answer.token_ids, [5, 6]])[:110]
        again = model.generate(after, 8, ignore_eos=True, speculate="ngram")
        fresh = load(model.path, threads=1).generate(after, 8, ignore_eos=True)
        assert again.reused_tokens == len(ids) + TOKENS - 1
        assert again.token_ids == fresh.token_ids
    given_up = model.engine.open(texts()[1], TOKENS, ignore_eos=True, speculate="ngram")
    for _ in range(6):
        model.engine.step()
    model.engine.close(given_up)
    said = given_up.token_ids
    assert len(said) > 4 and model.generate(texts()[1], TOKENS, ignore_eos=True).token_ids[: len(said)] == said


def test_samples_have_the_models_distribution(workshop: Workshop) -> None:
    """The second token of an answer whose first was drafted, beside its probabilities: chi-square."""
    model = model_of(workshop, "w4")

    def chances(row: list[int]) -> dict[int, float]:
        logits = np.asarray(model.logits([row])[0][-1], np.float64) / 2
        top = np.argsort(-logits)[:3]
        weights = np.exp(logits[top] - logits[top].max())
        return dict(zip(top.tolist(), weights / weights.sum(), strict=True))

    # a repetition that the model may go on with
    repeated = (np.tile(prompts((3,), seed=seed)[0][0], 6).tolist() for seed in itertools.count())
    ids = next(row for row in repeated if row[0] in chances(row) and row[1] in chances([*row, row[0]]))
    counts: dict[tuple[int, ...], int] = {}
    drafted, accepted, runs = 0, 0, 500
    for seed in range(runs):
        answer = model.generate(ids, 3, ignore_eos=True, temperature=2.0, top_k=3, seed=seed, speculate="ngram")
        drafted += answer.draft_tokens
        accepted += answer.accepted_tokens
        key = tuple(answer.token_ids[:2])
        counts[key] = counts.get(key, 0) + 1
    assert 20 < accepted < drafted - 20, "drafts are never right, or never wrong"
    expected = {
        (first, second): runs * chance * other
        for first, chance in chances(ids).items()
        for second, other in chances([*ids, first]).items()
    }
    assert counts.keys() <= expected.keys()
    statistic = sum((counts.get(key, 0) - number) ** 2 / number for key, number in expected.items())
    assert statistic < 26.1, "the 0.1 % quantile of chi-square with 8 degrees of freedom"


def test_what_can_not_speculate_says_so(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(workshop, "w4")
    with pytest.raises(MisuseError, match="E1612 speculate is 'eagle'"):
        model.generate([5], 2, speculate="eagle")
    # an artifact of before, whose rows may not be neighbours
    monkeypatch.setattr(cpu, "load_step", lambda path: dataclasses.replace(load_step(path), consecutive=False))
    with pytest.raises(UnsupportedError) as caught:
        load(model.path, threads=1).generate([5], 2, speculate="ngram")
    assert caught.value.code == "E1654"
    assert model.generate([5, 6], 2, prompt_lookup_num_tokens=3).token_ids == model.generate([5, 6], 2).token_ids
