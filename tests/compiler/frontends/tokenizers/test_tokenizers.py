"""tokenizer.json built from SentencePiece's tokenizer.model, against the sentencepiece library itself."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.checkpoints import write_tiny
from tests.compiler.frontends.gguf_files import write_gguf
from xamc.compiler.frontends import Checkpoint, open_checkpoint
from xamc.compiler.frontends.tokenizers.sentencepiece import sentencepiece_tokenizer
from xamc.compiler.frontends.tokenizers.sentencepiece_model import read_sentencepiece
from xamc.errors import InputError, UnsupportedError, XamcError

CORPUS = [
    "The quick brown fox jumps over the lazy dog, again and again and again.",
    "A compiler takes a model to an artifact; an artifact runs where the model could not.",
    "书生·浦语是一个大语言模型。模型编译器把模型变成可以运行的程序。",
    "numbers 12345 67890 and code: for i in range(10): print(i)",
    "the theory of the thing that then thought there was another other mother",
]
TEXTS = [
    "The quick brown fox",
    "a model that thought the other artifact",
    "书生模型 and 浦语",
    "unseen: ÄÖÜ 🌍 ñ \t tab\nline",
    "3.14159",
    "  a  model   that  ",
    "",
    "x",
]


def train(kind: str = "bpe", **options: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 20),
        model_writer=model,
        model_type=kind,
        vocab_size=400 if kind == "bpe" else 330,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=0.99,
        normalization_rule_name="identity",
        minloglevel=2,
        **options,
    )
    return model.getvalue()


MODELS = {
    "llama": train(remove_extra_whitespaces=False, split_digits=True, user_defined_symbols=["<tool>"]),
    "no prefix": train(remove_extra_whitespaces=False, add_dummy_prefix=False),
    "collapsing": train(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny(tmp_path_factory.mktemp("spm"), "internlm2", vocab_size=416)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(MODELS["llama"])
    return folder


def settings(folder: Path, **values: Any) -> Checkpoint:
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return open_checkpoint(folder, "huggingface")


def built(checkpoint: Checkpoint) -> Tokenizer:
    return Tokenizer.from_str(bytes(checkpoint.tokenizer["tokenizer.json"]).decode())


def compare(model: bytes, tokenizer: Tokenizer, text: str) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert tokenizer.encode(text, add_special_tokens=False).ids == reference.encode(text)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("text", [*CORPUS, *TEXTS])
def test_token_ids_are_sentencepieces(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(MODELS[name])
    tokenizer = Tokenizer.from_str(sentencepiece_tokenizer(read_sentencepiece(path)).decode())
    compare(MODELS[name], tokenizer, text)
    reference = sentencepiece.SentencePieceProcessor(model_proto=MODELS[name])
    ids = reference.encode(text)
    assert tokenizer.decode(ids, skip_special_tokens=False) == reference.decode(ids)


@given(
    st.lists(st.sampled_from(["the", "model", " ", "  ", "型", "书生", "a", "th", "ø", "12", ".", "\n"]), max_size=12)
)
def test_any_text_gets_sentencepieces_ids(parts: list[str]) -> None:
    compare(MODELS["no prefix"], NO_PREFIX, "".join(parts))


@pytest.fixture(scope="module", autouse=True)
def _no_prefix(tmp_path_factory: pytest.TempPathFactory) -> None:
    global NO_PREFIX
    path = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    path.write_bytes(MODELS["no prefix"])
    NO_PREFIX = Tokenizer.from_str(sentencepiece_tokenizer(read_sentencepiece(path)).decode())


NO_PREFIX: Tokenizer


def test_internlm2s_renamed_pieces_and_bos(folder: Path) -> None:
    """Chat models give reserved pieces a new name; text starts with bos unless the config says otherwise."""
    size = sentencepiece.SentencePieceProcessor(model_proto=MODELS["llama"]).vocab_size()
    added = {
        str(size - 1): {"content": "<|im_start|>", "special": True},
        str(size): {"content": "<|im_end|>", "special": True},
        "1": {"content": "<s>", "special": True},
    }
    checkpoint = settings(
        folder, added_tokens_decoder=added, bos_token="<s>", eos_token={"content": "<|im_end|>"}, auto_map={"x": "y"}
    )
    tokenizer = built(checkpoint)
    ids = tokenizer.encode("<|im_start|>the model<|im_end|>").ids
    assert (ids[0], ids[1], ids[-1]) == (1, size - 1, size)
    assert tokenizer.decode(ids) == "the model"
    assert built(settings(folder, add_bos_token=False)).encode("the").ids[0] != 1
    assert built(settings(folder, add_eos_token=True)).encode("the").ids[-1] == 2
    assert set(checkpoint.tokenizer) == {"tokenizer.json", "tokenizer_config.json"}
    assert folder / "tokenizer.model" in checkpoint.files


@pytest.mark.parametrize(
    "added",
    [
        {"x": {"content": "a"}},
        {"3": "a"},
        {"3": {"content": 1}},
        {"9999": {"content": "far"}},
        {"999999999": {"content": "far"}},
        {"5": {"content": "<s>"}},
        {"9" * 5000: {"content": "far"}},
    ],
)
def test_bad_added_tokens_are_named(folder: Path, added: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="E1134"):
        settings(folder, added_tokens_decoder=added)


def test_a_vocabulary_larger_than_the_embedding(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path, "internlm2")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(MODELS["llama"])
    with pytest.raises(InputError, match=r"E1134.*400 tokens.*vocab_size is 272"):
        open_checkpoint(folder, "huggingface")


def test_gguf_carries_the_same_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(MODELS["llama"])
    vocabulary = read_sentencepiece(path)
    keys = {
        "model": "llama",
        "tokens": list(vocabulary.tokens),
        "scores": [float(s) for s in vocabulary.scores],
        "token_type": list(vocabulary.types),
        "merges": None,
        "pre": None,
    }
    folder = write_tiny(tmp_path / "hf", "llama", hidden_size=96, vocab_size=416)
    write_gguf(tmp_path / "m.gguf", folder, metadata={f"tokenizer.ggml.{k}": v for k, v in keys.items()})
    tokenizer = built(open_checkpoint(tmp_path / "m.gguf", "gguf"))
    for text in TEXTS:
        compare(MODELS["llama"], tokenizer, text)
    assert tokenizer.encode("the").ids[0] == 1


def test_other_kinds_are_unsupported(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train("char"))
    with pytest.raises(UnsupportedError, match=r"E1134.*char"):
        read_sentencepiece(path)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 30, b"\x0a\xff\xff\xff\xff\x0f", b"hello, I am no model", b"\x0a\x02\x0a\x50", b"\x0b"]
)
def test_damaged_models_are_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"E1134.*tokenizer.model"):
        read_sentencepiece(path)


@given(
    st.lists(st.tuples(st.integers(0, len(MODELS["llama"]) - 1), st.integers(0, 255)), max_size=5), st.integers(0, 6000)
)
def test_damage_raises_our_errors_only(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(MODELS["llama"])
    for at, value in edits:
        data[at] = value
    path = tmp_path_factory.getbasetemp() / "fuzz.model"
    path.write_bytes(bytes(data[: len(data) - cut]))
    with contextlib.suppress(XamcError):
        sentencepiece_tokenizer(read_sentencepiece(path))
