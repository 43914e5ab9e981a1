"""Special tokens of GGUF files: which end an answer, and which type they have, as llama.cpp lists them.

The expected values were printed by llama.cpp (``llama_vocab_is_eog``, ``llama_vocab_get_attr``) for these vocabularies.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.checkpoints import write_tiny
from tests.compiler.frontends.gguf_files import write_gguf
from xamc.compiler.frontends import Checkpoint, open_checkpoint
from xamc.compiler.frontends.gguf.special_tokens import read_special_tokens
from xamc.compiler.frontends.tokenizers.bpe import BYTE, CONTROL, NORMAL, USER_DEFINED
from xamc.errors import InputError

WIDE = {"hidden_size": 96, "intermediate_size": 128, "head_dim": 16, "num_hidden_layers": 1}


def read(tokens: list[str], kind: str = "gpt2", types: list[int] | None = None, **keys: int) -> Any:
    metadata = {"tokenizer.ggml.model": kind} | {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    return read_special_tokens(metadata, Path("m.gguf"), tokens, types or [NORMAL] * len(tokens))


def test_ends_are_known_by_their_text() -> None:
    tokens = ["a", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|start_header_id|>", "b"]
    assert read(tokens, eos_token_id=1).ends == (1, 2, 3)
    assert read(tokens, eos_token_id=2).ends == (2, 1, 3)
    assert read(tokens).ends == (1, 2, 3)
    assert read(tokens, eos_token_id=5, eot_token_id=4, eom_token_id=0).ends == (5, 4, 0, 1, 2, 3)


@pytest.mark.parametrize("text", ["<|im_end|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<EOT>", "[EOT]", "[EOS]",
                                  "<|return|>", "<eos>", "<｜end▁of▁sentence｜>", "<end_of_utterance>"])  # fmt: skip
def test_each_end(text: str) -> None:
    found = read(["a", "b", text], eos_token_id=1)
    assert found.ends == (1, 2) and found.types == (NORMAL, NORMAL, CONTROL)


def test_types_are_those_that_llama_cpp_gives() -> None:
    tokens = ["<|im_end|>", "<|channel|>", "<|message|>", "<fim_prefix>", "<|file_sep|>", "<tool_call>", "<0x0A>"]
    found = read(tokens, types=[USER_DEFINED, CONTROL, CONTROL, NORMAL, NORMAL, NORMAL, BYTE])
    assert found.types == (CONTROL, USER_DEFINED, USER_DEFINED, CONTROL, CONTROL, NORMAL, BYTE)
    assert found.ends == (0, 4)


def test_fill_in_tokens_that_keys_name() -> None:
    tokens = ["a", "<|fim_pad|>", "x", "y", "z"]
    found = read(tokens, fim_pad_token_id=2, fim_rep_token_id=3, fim_pre_token_id=4, eos_token_id=0)
    assert found.ends == (0, 2, 3) and found.types == (NORMAL,) * 5
    assert read(["a", "<|fim_pad|>"], fim_pad_token_id=99).ends == (1,)


def test_an_end_of_a_message_is_not_the_end_of_an_answer() -> None:
    assert read(["<|end|>", "<|return|>", "<|call|>"]).ends == (1, 2)
    assert read(["<|end|>", "<|return|>", "<|call|>"]).types == (USER_DEFINED, CONTROL, CONTROL)
    assert read(["<|end|>", "<|call|>"]).ends == (0, 1)
    assert read(["</s>", "<|tool_response>"]).ends == (1,)


def test_sentencepiece_has_customary_ids() -> None:
    tokens = ["<unk>", "<s>", "</s>", "a"]
    found = read(tokens, "llama")
    assert (found.unknown, found.bos, found.eos, found.padding, found.ends) == (0, 1, 2, None, (2,))
    found = read(tokens, "llama", [2, 3, 3, 1], bos_token_id=4294967295, eos_token_id=4)
    assert (found.bos, found.eos) == (1, 2)
    first, second = found.warnings
    assert "tokenizer.ggml.bos_token_id 4294967295" in first and "tokenizer.ggml.eos_token_id 4" in second
    found = read(tokens, bos_token_id=4294967295)
    assert (found.unknown, found.bos, found.eos, found.ends) == (None, None, None, (2,))


# --- whole files


def opened(tmp_path: Path, **metadata: Any) -> Checkpoint:
    write_gguf(tmp_path / "m.gguf", write_tiny(tmp_path / "hf", "llama", **WIDE), metadata=metadata)
    return open_checkpoint(tmp_path / "m.gguf", "gguf")


def test_a_turn_ends_where_llama_cpp_ends_it(tmp_path: Path) -> None:
    """eos_token_id is the end of the text, the template ends turns with another token, of a wrong type."""
    keys = {
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a", "<|im_end|>", "<|channel|>"],
        "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 3],
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.padding_token_id": 4294967295,
    }
    with pytest.raises(InputError, match=r"no tokenizer\.ggml\.merges"):
        opened(tmp_path, **{**keys, "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "ab", "<|im_end|>", "x"]})
    checkpoint = opened(tmp_path, **keys)
    assert checkpoint.config.eos_token_ids == (2, 4)
    assert checkpoint.config.hf_config["eos_token_id"] == [2, 4]
    padding, types = checkpoint.warnings
    assert "tokenizer.ggml.padding_token_id 4294967295" in padding and "'<|im_end|>', '<|channel|>'" in types
    tokenizer = Tokenizer.from_str(bytes(checkpoint.tokenizer["tokenizer.json"]).decode())
    assert tokenizer.encode("a<|im_end|><|channel|>a").ids == [3, 4, 5, 3]
    assert tokenizer.decode([3, 4, 5, 3]) == "a<|channel|>a"
    assert "pad_token" not in json.loads(bytes(checkpoint.tokenizer["tokenizer_config.json"]))


def test_a_file_without_any_end_is_said(tmp_path: Path) -> None:
    keys = {
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "a"],
        "tokenizer.ggml.token_type": [2, 3, 1],
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.eos_token_id": None,
    }
    checkpoint = opened(tmp_path, **keys)
    assert checkpoint.config.eos_token_ids == ()
    assert any("no token is known to end an answer" in warning for warning in checkpoint.warnings)


def test_empty_tokens_are_told_apart(tmp_path: Path) -> None:
    tokens, types = ["<unk>", "<s>", "</s>", "a", "", ""], [2, 3, 3, 1, 5, 5]
    keys = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types, "tokenizer.ggml.merges": None}
    checkpoint = opened(tmp_path, **keys)
    tokenizer = Tokenizer.from_str(bytes(checkpoint.tokenizer["tokenizer.json"]).decode())
    assert tokenizer.id_to_token(4) == "[EMPTY_4]"


def test_user_defined_pieces_are_found_in_the_text_as_it_is(tmp_path: Path) -> None:
    """And what follows one starts anew, with a space before it: llama.cpp's ids, which are not SentencePiece's."""
    tokens = ["<unk>", "<s>", "</s>", "▁", "a", "▁a", "▁▁", "[INST]", "   "]
    keys = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 1, 4, 4],
        "tokenizer.ggml.scores": [-float(number) for number in range(len(tokens))],
    }
    checkpoint = opened(tmp_path, **keys)
    tokenizer = Tokenizer.from_str(bytes(checkpoint.tokenizer["tokenizer.json"]).decode())
    expected = {
        "[INST] a[INST]a": [1, 7, 3, 5, 7, 5],
        "a   a": [1, 5, 8, 5],
        "[INST]": [1, 7],
        "a</s>a": [1, 5, 2, 5],
        " a": [1, 3, 5],
    }
    assert {text: tokenizer.encode(text).ids for text in expected} == expected
