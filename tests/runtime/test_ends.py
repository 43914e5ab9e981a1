"""Where answers end, and that what ends them is no part of their text."""

from __future__ import annotations

from typing import Any

import pytest
import tokenizers

from xamc.artifact.manifest import Generation as GenerationDefaults
from xamc.runtime import Model, load
from xamc.runtime.executor import I64

PROMPT = [3, 17, 40]


@pytest.fixture
def answer(toy: Any, vocab_size: int) -> list[int]:
    """What the toy says."""
    return list(toy.greedy(PROMPT, 12, vocab_size))


def model_with(make_artifact: Any, tokenizer: Any, special: list[str], **generation: Any) -> Model:
    """The toy with a tokenizer that holds further tokens of its vocabulary as special."""
    changed = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    changed.add_special_tokens(special)
    defaults = GenerationDefaults(**{"bos_token_id": 0, "eos_token_ids": (), **generation})
    made: Model = load(make_artifact(tokenizer=changed, generation=defaults), threads=1)
    return made


def text_of(tokenizer: Any, token: int) -> str:
    text = tokenizer.id_to_token(token)
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 0), (0, 1)])
def test_a_stop_string_that_is_a_special_token(
    make_artifact: Any, tokenizer: Any, answer: list[int], before: int, after: int
) -> None:
    """Decoding leaves special tokens out of the text, and yet they end it, alone or with text around them."""
    special = text_of(tokenizer, answer[4])
    first = answer.index(answer[4])
    model = model_with(make_artifact, tokenizer, [special])
    shown, then = model.tokenizer.decode(answer[:first]), model.tokenizer.decode(answer[first + 1 :])
    assert shown and then
    stop = shown[len(shown) - before :] + special + then[:after]
    got = model.generate(PROMPT, 12, stop=["never said", stop])
    assert got.finish_reason == "stop" and first + after < len(got.token_ids) < 12
    assert got.text == shown[: len(shown) - before]
    stream = model.stream(PROMPT, 12, stop=stop)
    assert "".join(stream) == got.text
    assert model.generate(PROMPT, 12, stop="never said").text == model.tokenizer.decode(answer)


@pytest.mark.parametrize("in_pieces", [True, False])
def test_an_end_token_that_is_not_special(
    make_artifact: Any, tokenizer: Any, answer: list[int], in_pieces: bool
) -> None:
    first = answer.index(answer[4])
    model = model_with(make_artifact, tokenizer, [], eos_token_ids=(answer[4],))
    pieces: list[str] = []
    options = {"on_text": lambda row, piece: pieces.append(piece)} if in_pieces else {}
    got = model.generate(PROMPT, 12, **options)
    assert got.finish_reason == "eos" and got.token_ids == answer[: first + 1]
    assert got.text == model.tokenizer.decode(answer[:first]) != model.tokenizer.decode(answer[: first + 1])
    if in_pieces:
        assert "".join(pieces) == got.text
    assert model.generate(PROMPT, 12, ignore_eos=True).text == model.tokenizer.decode(answer)
    # named as a stop string as well
    assert model.generate(PROMPT, 12, stop=text_of(tokenizer, answer[4])).text == got.text


def test_stop_strings_of_the_checkpoint(make_artifact: Any, tokenizer: Any, answer: list[int]) -> None:
    whole = tokenizer.decode(answer)
    model = model_with(make_artifact, tokenizer, [], stop=(whole[4:7],))
    got = model.generate(PROMPT, 12)
    assert got.finish_reason == "stop" and got.text == whole[: whole.index(whole[4:7])]
    assert model.generate(PROMPT, 12, ignore_eos=True).text == whole


def test_an_empty_text_is_called_one(make_artifact: Any) -> None:
    from xamc.errors import InputError

    model = load(make_artifact(), threads=1)
    for prompt in ("", ["fox", ""]):
        with pytest.raises(InputError, match=r"E1605 the prompt's text is empty"):
            model.generate(prompt)
    empty: I64 = model.tokenizer.encode("")
    with pytest.raises(InputError, match=r"E1605.*token ids"):
        model.generate(empty)
    with pytest.raises(InputError, match=r"E1615.*empty prompt"):
        model.chat_prompt([{"role": "user", "content": ""}], template="{{ messages[0].content }}")
