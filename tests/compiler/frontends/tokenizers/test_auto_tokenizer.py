"""Whole tokenizer folders of many shapes, against transformers' AutoTokenizer: ids, texts, and chat prompts."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sentencepiece
import transformers
from transformers import AutoTokenizer

from tests.compiler.frontends.tokenizer_folders import CORPUS, IM_END, IM_START, KINDS, entry, size_of, write_folder
from xamc.compiler.frontends.tokenizers.huggingface import TokenizerFiles, tokenizer_files
from xamc.compiler.frontends.tokenizers.tokenizer_class import REBUILT
from xamc.compiler.frontends.tokenizers.tokenizer_class_names import UNFOLLOWED
from xamc.errors import InputError, UnsupportedError
from xamc.runtime.chat import ChatTemplate
from xamc.runtime.tokenizer import Tokenizer

TEXTS = [
    "the quick brown fox, isn't it? No .",
    f"{IM_START}user\nthe model{IM_END}\n{IM_START} again",
    " <s> a </s>the<unk> <img>x<|endoftext|>y<pad>",
    "  two  spaces\tÄ 🌍 10",
    "",
]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{{ eos_token }}|{{ unk_token }}|{{ pad_token }}|{{ image_token }}|{{ sep_token }}"
)
MESSAGES = [{"role": "user", "content": "the model"}, {"role": "assistant", "content": " again"}]
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
OLD = {"__type": "AddedToken", "content": IM_END, "lstrip": False, "normalized": True, "rstrip": False}
# tokenizer_class and model_type: each way to choose a class once, the common ones with every kind
CHOICES = {
    "word_level": [("PreTrainedTokenizerFast", "llama"), ("OwnTokenizer", "llama"), ("LlamaTokenizer", "mistral")],
    "byte_level": [
        ("PreTrainedTokenizerFast", "llama"),
        ("PreTrainedTokenizerFast", "qwen2"),
        ("GPT2Tokenizer", "llama"),
        ("GPTNeoXTokenizer", "llama"),
        ("Qwen2TokenizerFast", "llama"),
        ("LlamaTokenizerFast", "qwen3"),
        (None, "qwen3"),
    ],
    "metaspace": [
        ("LlamaTokenizer", "llama"),
        ("CodeLlamaTokenizer", "llama"),
        ("GemmaTokenizer", "llama"),
        ("LlamaTokenizerFast", "internlm2"),
        (None, "llama"),
    ],
    "unigram": [("PreTrainedTokenizer", "llama"), ("LlamaTokenizer", "llama"), (None, "qwen2")],
}


def decoder(kind: str, **flags: bool) -> dict[str, Any]:
    """``added_tokens_decoder`` with two tokens beside the vocabulary."""
    size = size_of(kind)
    return {str(size): entry(IM_START, **flags), str(size + 1): entry(IM_END, **flags)}


def shapes(kind: str) -> dict[str, dict[str, Any]]:
    """What stands beside tokenizer.json: arguments of `write_folder` by name."""
    size = size_of(kind)
    added = {IM_START: size, IM_END: size + 1}
    return {
        "bare": {},
        "named": {"settings": NAMED},
        "no settings but a map": {"settings": None, "files": {"special_tokens_map.json": NAMED}},
        "decoder": {"settings": {**NAMED, "added_tokens_decoder": decoder(kind)}},
        "decoder, not special": {"settings": {**NAMED, "added_tokens_decoder": decoder(kind, special=False)}},
        "decoder that strips": {"settings": {**NAMED, "added_tokens_decoder": decoder(kind, lstrip=True, rstrip=True)}},
        "decoder with a gap": {"settings": {"added_tokens_decoder": {str(size + 5): entry(IM_END)}}},
        "decoder and a map": {
            "settings": {"added_tokens_decoder": decoder(kind)},
            "files": {"special_tokens_map.json": {**NAMED, "pad_token": "<pad>"}},
        },
        "decoder renames": {"settings": {**NAMED, "added_tokens_decoder": {"5": entry(IM_START)}}},
        "added_tokens.json": {"settings": NAMED, "files": {"added_tokens.json": added}},
        "added_tokens.json, named": {
            "settings": {**NAMED, "eos_token": IM_END},
            "files": {"added_tokens.json": added},
        },
        "additional": {"settings": {**NAMED, "additional_special_tokens": [IM_START, IM_END]}},
        "additional in the map": {
            "settings": NAMED,
            "files": {"special_tokens_map.json": {"additional_special_tokens": [IM_START, IM_END]}},
        },
        "additional of old releases": {"settings": {**NAMED, "additional_special_tokens": [OLD]}},
        "additional null": {"settings": {**NAMED, "additional_special_tokens": None}},
        "extra list": {"settings": {**NAMED, "extra_special_tokens": [IM_START, IM_END]}},
        "extra by name": {"settings": {**NAMED, "extra_special_tokens": {"image_token": "<img>"}}},
        "both lists": {
            "settings": {**NAMED, "extra_special_tokens": [IM_START], "additional_special_tokens": [IM_END]}
        },
        "a name of its own": {"settings": {**NAMED, "image_token": "<img>"}},
        "a map that wins": {
            "settings": {**NAMED, "eos_token": IM_END},
            "files": {"special_tokens_map.json": {"eos_token": {**entry("</s>"), "lstrip": True}, "bos_token": "<s>"}},
        },
        "null": {"settings": {**NAMED, "bos_token": None}, "config": {"bos_token_id": 1}},
        "all null": {"settings": {"bos_token": None, "eos_token": None, "unk_token": None, "pad_token": None}},
        "absent": {"settings": {"eos_token": "</s>"}, "config": {"bos_token_id": 1}},
        "new names": {"settings": {"bos_token": "<begin>", "eos_token": IM_END, "pad_token": "<pad>"}},
        "eos not special": {"settings": {**NAMED, "eos_token": IM_END}, "plain": (IM_START, IM_END)},
        "eos not special, extra": {
            "settings": {**NAMED, "additional_special_tokens": [IM_START]},
            "plain": (IM_START, IM_END),
        },
        "objects": {"settings": {**NAMED, "eos_token": {"__type": "AddedToken", **entry("</s>", rstrip=True)}}},
        "add bos": {"settings": {**NAMED, "add_bos_token": True, "add_eos_token": True}},
        "no bos": {"settings": {**NAMED, "add_bos_token": False}},
        "prefix": {"settings": {**NAMED, "add_prefix_space": True}},
        "no prefix": {"settings": {**NAMED, "add_prefix_space": False}},
        "prefix null": {"settings": {**NAMED, "add_prefix_space": None, "legacy": None}},
        "legacy": {"settings": {**NAMED, "legacy": True}},
        "not legacy": {"settings": {**NAMED, "legacy": False}},
        "clean up": {"settings": {**NAMED, "clean_up_tokenization_spaces": True}},
        "clean up, by force": {
            "settings": {
                **NAMED,
                "clean_up_tokenization_spaces": True,
                "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": True,
            }
        },
        "split": {"settings": {**NAMED, "split_special_tokens": True, "added_tokens_decoder": decoder(kind)}},
        "padding": {
            "settings": NAMED,
            "padding": {
                "strategy": "BatchLongest",
                "direction": "Left",
                "pad_to_multiple_of": None,
                "pad_id": 2,
                "pad_type_id": 0,
                "pad_token": "<pad>",
            },
        },
        "special, then not": {"settings": {"added_tokens_decoder": {str(size): entry("<s>", special=False)}}},
        "looked for in normalized text": {
            "settings": {**NAMED, "added_tokens_decoder": {"1": entry("<s>", normalized=True)}, "pad_token": OLD}
        },
        "one text, two names": {
            "settings": {
                "bos_token": IM_END,
                "sep_token": {"__type": "AddedToken", **entry(IM_END, rstrip=True)},
                "pad_token": "</s>",
            }
        },
        "objects that nothing looks into": {
            "settings": {**NAMED, "additional_special_tokens": [OLD]},
            "files": {"added_tokens.json": added},
        },
        "class of config.json": {"settings": NAMED, "config": {"tokenizer_class": "LlamaTokenizer"}},
        "map with a switch": {"settings": NAMED, "files": {"special_tokens_map.json": {"add_bos_token": True}}},
    }


SHAPES = tuple(shapes("word_level"))


def open_both(folder: Path) -> tuple[TokenizerFiles, Tokenizer, Any]:
    """Ours as the runtime reads it from an artifact, and transformers'."""
    values = json.loads((folder / "config.json").read_text())
    config: Any = SimpleNamespace(model_type=values["model_type"], vocab_size=4096)
    files = tokenizer_files(folder, config, values.get("tokenizer_class"))
    target = folder / "artifact"
    target.mkdir()
    for name, content in files.files.items():
        (target / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    return files, Tokenizer(target), AutoTokenizer.from_pretrained(folder)


def differences(folder: Path) -> list[str]:
    """What isn't transformers'."""
    files, ours, theirs = open_both(folder)
    found = []

    def compare(what: str, got: Any, want: Any) -> None:
        if got != want:
            found.append(f"{what}: {got!r}, transformers {want!r}")

    for text in TEXTS:
        for special in (True, False):
            want = theirs(text, add_special_tokens=special).input_ids
            got = ours.encode(text, special).tolist()
            compare(f"{text!r} {special}", got, want)
            compare(f"text of {want}", ours.decode(want), theirs.decode(want, skip_special_tokens=True))
    compare("special tokens", ours.special_tokens, theirs.special_tokens_map)
    text = theirs.apply_chat_template(MESSAGES, chat_template=TEMPLATE, tokenize=False)
    prompt = ChatTemplate(TEMPLATE, ours.special_tokens).render(MESSAGES, add_generation_prompt=False)
    compare("prompt", prompt, text)
    compare("its ids", ours.encode(prompt, False).tolist(), theirs(text, add_special_tokens=False).input_ids)
    compare("eos", files.eos, theirs.eos_token_id)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_folder_has_the_ids_texts_and_prompts_of_transformers(shape: str, kind: str, tmp_path: Path) -> None:
    found = []
    for name, model_type in CHOICES[kind]:
        if shape == "prefix null" and name in ("GPT2Tokenizer", "GPTNeoXTokenizer"):
            continue  # a TypeError in transformers
        arguments = dict(shapes(kind)[shape])
        config = {"model_type": model_type, **arguments.pop("config", {})}
        settings = arguments.pop("settings", None)
        if name is not None:
            settings = {"tokenizer_class": name, **(settings or {})}
        folder = write_folder(tmp_path / f"{name} {model_type}", kind, config, settings, **arguments)
        found += [f"{name} of {model_type}: {line}" for line in differences(folder)]
    assert not found, "\n".join(found)


def test_the_classes_that_are_not_followed_are_all_known() -> None:
    """A new release of transformers may bring classes; each is either written down or refused."""
    here = {name.removesuffix("Fast") for name in dir(transformers) if name.endswith(("Tokenizer", "TokenizerFast"))}
    followed = {*REBUILT, "PreTrainedTokenizer", "BloomTokenizer", "AutoTokenizer"}
    assert here - followed <= UNFOLLOWED
    assert not UNFOLLOWED & followed


@pytest.mark.parametrize("name", ["BertTokenizer", "T5TokenizerFast"])
def test_a_class_with_other_rules_is_refused(name: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", "word_level", None, {"tokenizer_class": name})
    with pytest.raises(
        UnsupportedError, match=rf"E1134.*tokenizer_config\.json names tokenizer_class {name}"
    ) as caught:
        open_both(folder)
    assert "PreTrainedTokenizerFast" in str(caught.value.fix)


@pytest.mark.parametrize(
    "settings",
    [
        {"bos_token": 3},
        {"additional_special_tokens": "one"},
        {"additional_special_tokens": [3]},
        {"added_tokens_decoder": {"x": entry("a")}},
        {"added_tokens_decoder": {"3": "a"}},
        {"added_tokens_decoder": [1]},
        {"added_tokens_decoder": {"3": {"content": "a", "lstrip": 3}}},
        {"extra_special_tokens": {"image_token": 3}},
    ],
)
def test_what_is_no_token_is_named(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", "word_level", None, settings)
    with pytest.raises(InputError, match="E1134"):
        open_both(folder)


def test_an_untouched_file_stays_the_file(tmp_path: Path) -> None:
    """A tokenizer.json that has all its tokens goes into the artifact byte by byte."""
    folder = write_folder(tmp_path / "x", "byte_level", None, {"tokenizer_class": "PreTrainedTokenizerFast", **NAMED})
    files, _, _ = open_both(folder)
    assert files.files["tokenizer.json"] == folder / "tokenizer.json"


def sentencepiece_folder(path: Path, kind: str, settings: dict[str, Any], **options: Any) -> Path:
    """A folder with a tokenizer.model and no tokenizer.json."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4),
        model_writer=model,
        model_type=kind,
        vocab_size=400 if kind == "bpe" else 330,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        **options,
    )
    folder = write_folder(path, "word_level", None, {"tokenizer_class": "LlamaTokenizer", **settings})
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder


BOS = {**NAMED, "add_bos_token": True}


@pytest.mark.parametrize(
    "settings",
    [
        BOS,
        {**NAMED, "add_bos_token": False},
        {**BOS, "add_eos_token": True},
        {**BOS, "legacy": False},
        {**BOS, "add_prefix_space": False},
        {**BOS, "bos_token": None},
        {**BOS, "added_tokens_decoder": {"400": entry(IM_START)}},
    ],
)
def test_a_llama_tokenizer_of_a_tokenizer_model_alone(settings: dict[str, Any], tmp_path: Path) -> None:
    assert differences(sentencepiece_folder(tmp_path / "x", "bpe", settings)) == []
