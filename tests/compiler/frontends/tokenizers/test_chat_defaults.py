"""Templates and stop tokens of InternLM's chat models, whose folders keep them in Python files."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from tests.checkpoints import write_tiny
from tests.compiler.frontends.gguf_files import write_gguf
from xamc.compiler.frontends import Checkpoint, open_checkpoint
from xamc.runtime.chat import ChatTemplate
from xamc.runtime.tokenizer import Tokenizer

OLD, NEW = ["[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_146]"], ["<|im_end|>", "<|im_start|>"]
MESSAGES = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ho"},
    {"role": "user", "content": "And"},
]
CHATML = (
    "<s><|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
    "<|im_start|>user\nAnd<|im_end|>\n<|im_start|>assistant\n"
)
INTERNLM = "<s><|System|>:S\n<|User|>:Hi<eoh>\n<|Bot|>:Ho<eoa>\n<|User|>:And<eoh>\n<|Bot|>:"


@cache
def train(*pieces: str) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a system and a user and an assistant say Hi and Ho, over and over again"] * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=list(pieces),
        minloglevel=2,
    )
    return model.getvalue()


def folder(
    path: Path, kind: str, pieces: list[str], settings: dict[str, Any] | None = None, generation: Any = None
) -> Path:
    write_tiny(path, kind, vocab_size=416)
    (path / "tokenizer.json").unlink()
    (path / "tokenizer.model").write_bytes(train(*pieces))
    (path / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "</s>"} | (settings or {}))
    )
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation))
    return path


def opened(path: Path) -> Checkpoint:
    return open_checkpoint(path, "huggingface")


def prompt_of(checkpoint: Checkpoint, folder: Path) -> tuple[str, list[int]]:
    """The rendered prompt and its ids, as `xamc chat` makes them of the artifact's files."""
    for name, content in checkpoint.tokenizer.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    tokenizer = Tokenizer(folder)
    assert checkpoint.chat_template is not None
    text = ChatTemplate(checkpoint.chat_template, tokenizer.special_tokens).render(MESSAGES)
    return text, [int(i) for i in tokenizer.encode(text, add_special_tokens=False)]


def id_of(piece: str, *pieces: str) -> int:
    return int(sentencepiece.SentencePieceProcessor(model_proto=train(*pieces)).piece_to_id(piece))


@pytest.mark.parametrize(
    ("kind", "pieces", "expected"),
    [
        ("internlm", ["<eoh>", "<eoa>"], INTERNLM),
        ("internlm2", NEW, CHATML),
        ("internlm3", NEW, CHATML),
        (
            "internlm2",
            OLD,
            CHATML.replace("<|im_start|>", "[UNUSED_TOKEN_146]").replace("<|im_end|>", "[UNUSED_TOKEN_145]"),
        ),
    ],
)
def test_a_folder_without_template_gets_the_familys(
    kind: str, pieces: list[str], expected: str, tmp_path: Path
) -> None:
    checkpoint = opened(folder(tmp_path / "model", kind, pieces))
    text, ids = prompt_of(checkpoint, tmp_path)
    assert text == expected
    stop = id_of("<eoa>" if kind == "internlm" else pieces[0], *pieces)
    assert checkpoint.config.eos_token_ids == (2, stop)
    assert ids[0] == 1 and ids.count(stop) == text.count(pieces[1 if kind == "internlm" else 0])
    written = json.loads(bytes(checkpoint.tokenizer["tokenizer_config.json"]))
    assert written["chat_template"] == checkpoint.chat_template


def test_what_the_folder_says_wins(tmp_path: Path) -> None:
    said = {"eos_token_id": [7, 9]}
    own = opened(folder(tmp_path / "a", "internlm2", NEW, {"chat_template": "mine"}, said))
    assert own.chat_template == "mine" and own.config.eos_token_ids == (7, 9)
    # A template of its own and no word about the end: the turn's end is the family's.
    own = opened(folder(tmp_path / "b", "internlm2", NEW, {"chat_template": "mine"}))
    assert own.config.eos_token_ids == (2, id_of("<|im_end|>", *NEW))
    built_in = opened(folder(tmp_path / "c", "internlm2", NEW, None, said))
    assert built_in.config.eos_token_ids == (7, 9, id_of("<|im_end|>", *NEW))


def test_other_models_and_vocabularies_get_none(tmp_path: Path) -> None:
    for kind, pieces in (("llama", NEW), ("internlm2", ["<eoh>"]), ("internlm", NEW)):
        checkpoint = opened(folder(tmp_path / f"{kind}{len(pieces)}", kind, pieces))
        assert checkpoint.chat_template is None and checkpoint.config.eos_token_ids == (2,)


def test_a_ready_tokenizer_without_template(tmp_path: Path) -> None:
    path = folder(tmp_path / "model", "internlm2", NEW)
    ready = bytes(opened(path).tokenizer["tokenizer.json"])
    (path / "tokenizer.model").unlink()
    (path / "tokenizer.json").write_bytes(ready)
    checkpoint = opened(path)
    assert prompt_of(checkpoint, tmp_path)[0] == CHATML
    assert checkpoint.config.eos_token_ids == (2, id_of("<|im_end|>", *NEW))


def test_tokens_in_files_of_their_own(tmp_path: Path) -> None:
    """Older folders: special_tokens_map.json and added_tokens.json beside a bare tokenizer.model."""
    path = folder(tmp_path / "model", "internlm2", ["<x>"])
    (path / "tokenizer_config.json").unlink()
    size = sentencepiece.SentencePieceProcessor(model_proto=train("<x>")).vocab_size()
    (path / "special_tokens_map.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": NEW})
    )
    (path / "added_tokens.json").write_text(json.dumps({"<|im_start|>": size, "<|im_end|>": size + 1}))
    checkpoint = opened(path)
    text, ids = prompt_of(checkpoint, tmp_path)
    assert text == CHATML and checkpoint.config.eos_token_ids == (2, size + 1) and ids.count(size) == 5
    assert {path / "special_tokens_map.json", path / "added_tokens.json"} <= set(checkpoint.files)


def test_gguf_without_template(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "hf", "llama", vocab_size=272)
    tokens = ["<unk>", "<s>", "</s>", "a", "b", "ab", "<|im_start|>", "<|im_end|>"]
    write_gguf(
        tmp_path / "m.gguf",
        source,
        metadata={
            "general.architecture": "internlm2",
            **{
                f"internlm2.{key}": value
                for key, value in {
                    "context_length": 64,
                    "block_count": 2,
                    "embedding_length": 48,
                    "feed_forward_length": 80,
                    "attention.head_count": 6,
                    "attention.head_count_kv": 2,
                    "attention.layer_norm_rms_epsilon": 1e-5,
                    "attention.key_length": 16,
                }.items()
            },
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [0.0] * 8,
            "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 3, 3],
            "tokenizer.ggml.merges": None,
        },
    )
    checkpoint = open_checkpoint(tmp_path / "m.gguf", "gguf")
    assert checkpoint.config.eos_token_ids == (2, 7)
    assert prompt_of(checkpoint, tmp_path)[0] == CHATML
