"""transformers' words for `generate`: the same tokens as there, or an error that names the word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from xamc.errors import MisuseError, UnsupportedError, XamcError
from xamc.runtime import Model, Options, load
from xamc.runtime.executor import Step
from xamc.runtime.generation_words import read_request

VOCAB = 97
PROMPT = [5, 17, 33, 8, 21]


def random_llama(seed: int) -> Any:
    """A Llama of transformers, of one layer, whose logits are far apart."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.fixture(scope="module")
def theirs() -> Any:
    return random_llama(3)


class Foreign:
    """Runs transformers' model on the whole sequence, row by row: what differs is then how tokens are chosen."""

    threads, pages = 1, None

    def __init__(self, model: Any) -> None:
        self._model = model
        self._slots: dict[int, list[int]] = {}

    def clear(self, slot: int) -> None:
        self._slots[slot] = []

    @torch.no_grad()
    def forward(self, step: Step) -> np.ndarray:
        logits = np.zeros((len(step.slots), 1, VOCAB), np.float32)
        for row, slot in enumerate(step.slots.tolist()):
            start, count = int(step.write_index[row]), int(step.lengths[row])
            self._slots[slot] = [*self._slots[slot][:start], *step.input_ids[row, :count].tolist()]
            logits[row, 0] = self._model(torch.tensor([self._slots[slot]])).logits[0, -1].numpy()
        return logits


@pytest.fixture(scope="module")
def ours(theirs: Any, tmp_path_factory: pytest.TempPathFactory, toy: Any, toy_code: dict[str, Path]) -> Model:
    folder = tmp_path_factory.mktemp("words") / "artifact"
    toy.write_artifact(
        folder, "reference", toy_code["reference"], vocab_size=VOCAB, generation=toy.Generation(1, (2,), None)
    )
    return Model(folder, load(folder).manifest, Foreign(theirs))


def expected(model: Any, prompt: list[int], **words: Any) -> list[list[int]]:
    output = model.generate(torch.tensor([prompt]), pad_token_id=0, **words)
    return [row[len(prompt) :].tolist() for row in output]


GREEDY: list[dict[str, Any]] = [
    {"max_new_tokens": 12, "do_sample": False},
    {"max_length": 12, "do_sample": False},  # which counts the prompt
    {"max_length": 9, "max_new_tokens": 6},  # of which max_new_tokens counts
    {"max_new_tokens": 12, "do_sample": False, "temperature": 0.7, "top_k": 3, "top_p": 0.5},  # which mean nothing then
    {"max_new_tokens": 12, "repetition_penalty": 1.4},
    {"max_new_tokens": 12, "num_beams": 1, "use_cache": True, "output_scores": False, "early_stopping": False},
    {"max_new_tokens": 12, "num_return_sequences": 1, "bad_words_ids": None, "no_repeat_ngram_size": 0},
    {"generation_config": GenerationConfig(max_new_tokens=7, repetition_penalty=1.3)},
    {"generation_config": GenerationConfig(max_new_tokens=7, repetition_penalty=1.3), "max_new_tokens": 3},
]


@pytest.mark.parametrize("words", GREEDY, ids=[" ".join(words) for words in GREEDY])
def test_greedy_answers_are_those_of_transformers(words: dict[str, Any], ours: Model, theirs: Any) -> None:
    (want,) = expected(theirs, PROMPT, **words)
    assert ours.generate(PROMPT, **words).token_ids == want


def test_the_end_of_sequence_is_what_the_call_says(ours: Model, theirs: Any) -> None:
    (whole,) = expected(theirs, PROMPT, max_new_tokens=12, eos_token_id=-1)
    for ids in (whole[5], [whole[7], whole[4]]):
        (want,) = expected(theirs, PROMPT, max_new_tokens=12, eos_token_id=ids)
        assert len(want) < 12
        answer = ours.generate(PROMPT, 12, eos_token_id=ids)
        assert (answer.token_ids, answer.finish_reason) == (want, "eos")
        for fewest in ({"min_new_tokens": 8}, {"min_length": 13}):
            (want,) = expected(theirs, PROMPT, max_new_tokens=12, eos_token_id=ids, **fewest)
            assert len(want) >= 8
            assert ours.generate(PROMPT, 12, eos_token_id=ids, **fewest).token_ids == want


def test_sampling_draws_from_the_tokens_that_transformers_draws_from(ours: Model, theirs: Any) -> None:
    """`do_sample` alone means a temperature of 1 and the 50 likeliest tokens."""
    logits = theirs(torch.tensor([PROMPT])).logits[0, -1]
    words: dict[str, Any] = {"do_sample": True, "max_new_tokens": 1, "num_return_sequences": 3}
    drawn = {token for seed in range(300) for token in _drawn(ours, seed, words)}
    allowed = set(torch.topk(logits, 50).indices.tolist())
    assert drawn <= allowed and len(drawn) > 40
    assert read_request(None, {"do_sample": True}).options == Options(temperature=1.0, top_k=50)
    assert read_request(None, {"do_sample": True, "top_k": 0, "temperature": 0.5}).options == Options(temperature=0.5)


def _drawn(model: Model, seed: int, words: dict[str, Any]) -> list[int]:
    return [answer.token_ids[0] for answer in model.generate(PROMPT, seed=seed, **words)]


def test_several_answers_to_each_prompt(ours: Model) -> None:
    """In transformers' order: all answers to the first prompt, then those to the next."""
    answers = ours.generate([PROMPT], 6, do_sample=True, num_return_sequences=3, seed=1)
    assert [answer.prompt_tokens for answer in answers] == [5] * 3
    assert len({tuple(answer.token_ids) for answer in answers}) == 3
    # more than the artifact's largest batch of 3, which a caller can't split; all of them differ
    many = ours.generate(PROMPT, 6, do_sample=True, num_return_sequences=7, seed=1)
    assert [answer.token_ids for answer in many[:3]] == [answer.token_ids for answer in answers]
    assert len({tuple(answer.token_ids) for answer in many}) == 7
    two = ours.generate(PROMPT, 6, temperature=1.0, num_return_sequences=2, seed=1)
    assert isinstance(two, list) and len(two) == 2


def test_what_a_tokenizer_of_transformers_gives(ours: Model) -> None:
    """Padded rows and a mask, tensors, and the names that `generate` has for them."""
    rows = [PROMPT, PROMPT[:2]]
    want = [ours.generate(row, 6).token_ids for row in rows]
    left, right = [[0, 0, 0, 5, 17], [5, 17, 0, 0, 0]]
    for short, mask in ((left, [0, 0, 0, 1, 1]), (right, [1, 1, 0, 0, 0])):
        ids, masks = np.array([PROMPT, short]), np.array([[1] * 5, mask])
        for kind in (np.array, torch.tensor):
            answers = ours.generate(input_ids=kind(ids), attention_mask=kind(masks), max_new_tokens=6)
            assert [answer.token_ids for answer in answers] == want
    assert ours.generate(torch.tensor(PROMPT), 6).token_ids == want[0]
    assert ours.generate(inputs=PROMPT, max_new_tokens=6).token_ids == want[0]


@pytest.mark.parametrize(
    "words",
    [
        {"num_beams": 4},
        {"bad_words_ids": [[3]]},
        {"output_scores": True},
        {"return_dict_in_generate": True},
        {"streamer": object()},
        {"logits_processor": [object()]},
        {"min_p": 0.1},
        {"no_repeat_ngram_size": 2},
        {"generation_config": {"penalty_alpha": 0.6}},
        {"max_time": 3.0},
        {"assistant_model": object()},
    ],
    ids=lambda words: next(iter(words)),
)
def test_what_the_runtime_cannot_do_is_named(words: dict[str, Any], ours: Model) -> None:
    name = next(iter(words)) if "generation_config" not in words else "penalty_alpha"
    with pytest.raises(UnsupportedError, match=rf"E1653 {name}="):
        ours.generate(PROMPT, **words)
    with pytest.raises(UnsupportedError, match="E1653"):
        ours.stream(PROMPT, **words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"temprature": 1.0}, r"temprature.*did you mean temperature\?"),
        ({"max_tokens": 3}, r"did you mean max_new_tokens\?"),
        ({"n": 3}, r"did you mean num_return_sequences\?"),
        ({"xyzzy": 3}, "the options are .*temperature"),
        ({"max_new_tokens": 1.5}, "max_new_tokens is 1.5"),
        ({"max_new_tokens": "3"}, "max_new_tokens is '3'"),
        ({"max_new_tokens": True}, "max_new_tokens is True"),
        ({"temperature": "0.7"}, "temperature is '0.7'"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"stop": 3}, "stop is 3"),
        ({"stop": ["a", 3]}, "stop is"),
        ({"stop": "a", "stop_strings": "b"}, "stop and stop_strings"),
        ({"ignore_eos": "no"}, "ignore_eos is 'no'"),
        ({"do_sample": "yes"}, "do_sample is 'yes'"),
        ({"do_sample": True, "temperature": 0.0}, "temperature is 0"),
        ({"max_length": 5}, "the prompt alone has 5 tokens"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0"),
        ({"num_return_sequences": 2}, "would be the same"),
        ({"input_ids": [1, 2]}, "2 prompts"),
        ({"attention_mask": [[1, 1]]}, "one shape"),
        ({"generation_config": 5}, "generation_config"),
        ({"eos_token_id": "</s>"}, "eos_token_id is"),
        ({"eos_token_id": 2.5}, "eos_token_id is"),
    ],
    ids=str,
)
def test_words_that_mean_nothing_are_named(words: dict[str, Any], said: str, ours: Model) -> None:
    with pytest.raises(MisuseError, match=rf"E1612.*{said}"):
        ours.generate(PROMPT, **words)


def test_every_word_of_transformers_is_known(ours: Model) -> None:
    """Whatever a GenerationConfig has: taken, without effect, or refused by name; never a word nobody knows."""
    for name in GenerationConfig().to_dict():
        if name.startswith("_"):
            continue
        try:
            read_request(None, {name: None})
            read_request(None, {name: 3})
        except XamcError as error:
            assert "is no option" not in error.message, name
