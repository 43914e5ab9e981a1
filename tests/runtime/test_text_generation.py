"""`pipeline` beside transformers.pipeline on one tiny model: what goes in, what comes out, every text the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.runtime.test_generation_words import VOCAB, Foreign, random_llama
from xamc.errors import InputError, MisuseError, UnsupportedError
from xamc.runtime import Model, TextGenerationPipeline, load, pipeline

TEMPLATE = (
    "{% for m in messages %}{{ m.role }} : {{ m.content }} ;\n{% endfor %}"
    "{% if tools %}w7 {% endif %}{% if add_generation_prompt %}assistant :{% endif %}"
)
STRIPPING = TEMPLATE.replace("m.content", "m.content | trim")
CHAT = [{"role": "user", "content": "w5 w9"}]
CONTINUED = [*CHAT, {"role": "assistant", "content": "w11 w12 "}]
SYSTEM = [{"role": "system", "content": "w8"}, *CHAT]


def tokenizer_of(template: str = TEMPLATE) -> PreTrainedTokenizerFast:
    """Words, some of them punctuation, which the pipeline's decoder moves to the word before."""
    words = ["<pad>", "<s>", "</s>", "<unk>", ".", ",", "!", "'s", "user", "assistant", "system", ":", ";"]
    words += [f"w{number}" for number in range(VOCAB - len(words))]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
    fast.chat_template = template
    return fast


@pytest.fixture(scope="module")
def theirs_model() -> Any:
    return random_llama(5)


@pytest.fixture(scope="module", params=[TEMPLATE, STRIPPING], ids=["template", "stripping template"])
def both(
    request: pytest.FixtureRequest,
    theirs_model: Any,
    tmp_path_factory: pytest.TempPathFactory,
    toy: Any,
    toy_code: dict[str, Path],
) -> tuple[Any, TextGenerationPipeline]:
    tokenizer = tokenizer_of(request.param)
    folder = tmp_path_factory.mktemp("pipeline") / "artifact"
    generation = toy.Generation(1, (2,), "tokenizer/chat_template.jinja")
    texts = {
        "tokenizer/tokenizer.json": tokenizer.backend_tokenizer.to_str(),
        "tokenizer/tokenizer_config.json": json.dumps({"bos_token": "<s>", "eos_token": "</s>"}),
        "tokenizer/chat_template.jinja": request.param,
    }
    changes = {"vocab_size": VOCAB, "generation": generation}
    toy.write_artifact(folder, "reference", toy_code["reference"], texts=texts, **changes)
    ours = Model(folder, load(folder).manifest, Foreign(theirs_model))
    theirs = transformers.pipeline("text-generation", model=theirs_model, tokenizer=tokenizer)
    return theirs, pipeline("text-generation", model=ours)


INPUTS: list[Any] = [
    "w3 w4 w5",
    ["w3 w4 w5"],
    ["w3 w4 w5", "w6", "w7 w8"],
    CHAT,
    [CHAT],
    [CHAT, SYSTEM],
    CONTINUED,
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"return_full_text": False},
    {"return_full_text": True},
    {"return_tensors": True},
    {"return_text": True},
    {"clean_up_tokenization_spaces": False},
    {"continue_final_message": False},
    {"skip_special_tokens": False, "return_full_text": False},
    {"tools": [{"type": "function", "function": {"name": "f"}}]},
    {"batch_size": 2},
    {"repetition_penalty": 1.3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=[" ".join(options) or "nothing" for options in OPTIONS])
@pytest.mark.parametrize(
    "inputs", INPUTS, ids=["text", "list of one", "list", "chat", "chats of one", "chats", "begun"]
)
def test_results_are_those_of_transformers(inputs: Any, options: dict[str, Any], both: Any) -> None:
    theirs, ours = both
    words = {"do_sample": False, "max_new_tokens": 9, **options}
    assert ours(inputs, **words) == theirs(inputs, **words)


def test_prefixes_special_tokens_and_lengths(both: Any) -> None:
    theirs, ours = both
    for words in (
        {"prefix": "w9 w10 "},
        {"add_special_tokens": False},
        {"stop_sequence": "w20"},
        {"max_length": 12, "max_new_tokens": None},
        {"eos_token_id": 40},
        {"num_return_sequences": 1},
    ):
        call = {"do_sample": False, "max_new_tokens": 9, **words}
        assert ours("w3 w4 w5", **call) == theirs("w3 w4 w5", **call), words


def test_options_of_the_pipeline_hold_for_every_call(both: Any) -> None:
    _, ours = both
    fixed = pipeline(model=ours.model, do_sample=False, max_new_tokens=3, device="cpu", return_full_text=False)
    (answer,) = fixed("w3 w4")
    assert answer == ours("w3 w4", do_sample=False, max_new_tokens=3, return_full_text=False)[0]
    assert fixed("w3 w4", return_full_text=True)[0]["generated_text"].startswith("w3 w4")


def test_a_generator_is_read_as_its_results_are(both: Any) -> None:
    _, ours = both
    taken: list[str] = []

    def texts() -> Any:
        for text in ("w3", "w4"):
            taken.append(text)
            yield text

    results = ours(texts(), do_sample=False, max_new_tokens=2)
    assert taken == []
    first = next(results)
    assert taken == ["w3"] and first == ours("w3", do_sample=False, max_new_tokens=2)
    assert len(list(results)) == 1


def test_defaults_are_those_of_transformers(both: Any) -> None:
    """256 tokens at a temperature of 0.7, as far as the context has room: here 48 positions."""
    _, ours = both
    tokens = {tuple(ours("w3", return_tensors=True, seed=seed)[0]["generated_token_ids"]) for seed in range(4)}
    assert len(tokens) > 1 and max(map(len, tokens)) == 48
    several = ours(["w3", "w4"], num_return_sequences=3, max_new_tokens=2, seed=1)
    assert [len(answers) for answers in several] == [3, 3]


def test_what_it_cannot_do_is_named(both: Any, tmp_path: Path) -> None:
    _, ours = both
    with pytest.raises(UnsupportedError, match=r"E1653.*'summarization'.*'text-generation'"):
        pipeline("summarization", model=ours.model)
    with pytest.raises(MisuseError, match="E1612"):
        pipeline("text-generation")
    with pytest.raises(InputError, match="E1504"):
        pipeline("text-generation", model=tmp_path / "none")
    with pytest.raises(UnsupportedError, match="E1653 handle_long_generation"):
        ours("w3", handle_long_generation="hole")
    with pytest.raises(UnsupportedError, match="E1653 num_beams"):
        ours("w3", num_beams=3)
    with pytest.raises(MisuseError, match=r"did you mean return_full_text\?"):
        ours("w3", return_ful_text=False)
    with pytest.raises(MisuseError, match="return_full_text"):
        ours("w3", return_full_text=False, return_tensors=True)
    with pytest.raises(InputError, match="E1651"):
        ours("w3 \udcff")


def test_an_artifact_is_loaded_by_its_path(both: Any) -> None:
    _, ours = both
    loaded = pipeline("text-generation", model=str(ours.model.path), threads=1)
    assert loaded.task == "text-generation" and loaded.model.threads == 1
