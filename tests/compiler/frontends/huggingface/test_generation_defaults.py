"""generation_config.json as published models have it: odd values mean what transformers and vLLM make of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import write_tiny
from xamc.compiler.frontends import Checkpoint, open_checkpoint
from xamc.compiler.frontends.checkpoint import GenerationDefaults


def opened(folder: Path, values: dict[str, Any]) -> Checkpoint:
    (folder / "generation_config.json").write_text(json.dumps(values))
    return open_checkpoint(folder, "huggingface")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("model"), "llama")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"temperature": 0.0, "top_k": 1, "top_p": 0.001}, GenerationDefaults(False, None, 1, 0.001)),
        ({"temperature": 0, "do_sample": True}, GenerationDefaults(False)),
        ({"temperature": 0.0, "do_sample": False}, GenerationDefaults(False)),
        ({"top_k": -1, "temperature": 1}, GenerationDefaults(None, 1.0, 0)),
        ({"top_k": 0, "top_p": 1.0}, GenerationDefaults(None, None, 0, 1.0)),
        ({"top_k": 50.0, "top_p": 1}, GenerationDefaults(None, None, 50, 1.0)),
        ({"top_p": 0.0, "do_sample": True}, GenerationDefaults(False)),
        ({"top_p": 1.5}, GenerationDefaults(top_p=1.0)),
        (
            dict.fromkeys(("do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "eos_token_id")),
            GenerationDefaults(),
        ),
        ({"repetition_penalty": 1.05, "do_sample": True}, GenerationDefaults(True, repetition_penalty=1.05)),
        ({"min_p": 0.1, "max_new_tokens": 2048, "transformers_version": "4.44.0"}, GenerationDefaults()),
    ],
)
def test_values_with_a_meaning(values: dict[str, Any], expected: GenerationDefaults, folder: Path) -> None:
    checkpoint = opened(folder, values)
    assert checkpoint.generation == expected and not checkpoint.warnings
    assert checkpoint.config.eos_token_ids == (2,)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", -1),
        ("temperature", "warm"),
        ("temperature", True),
        ("temperature", float("nan")),
        ("top_k", 2.5),
        ("top_k", -7),
        ("top_p", -0.1),
        ("top_p", float("inf")),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", []),
        ("do_sample", "yes"),
        ("eos_token_id", 300),
        ("eos_token_id", "</s>"),
        ("bos_token_id", [[1]]),
    ],
)
def test_values_without_a_meaning_are_left_out_with_a_word(key: str, value: Any, folder: Path) -> None:
    """A compile needs none of them; the message names the right file."""
    checkpoint = opened(folder, {key: value})
    [warning] = checkpoint.warnings
    assert f"generation_config.json: {key} is " in warning and "left out" in warning
    assert checkpoint.generation == GenerationDefaults()
    assert (checkpoint.config.bos_token_id, checkpoint.config.eos_token_ids) == (1, (2,))


def test_end_ids(folder: Path) -> None:
    assert opened(folder, {"eos_token_id": [5, 7, 5]}).config.eos_token_ids == (5, 7)
    assert opened(folder, {"eos_token_id": 9.0, "bos_token_id": 3}).config.eos_token_ids == (9,)
    checkpoint = opened(folder, {"eos_token_id": [5, None, -1, 999]})
    assert checkpoint.config.eos_token_ids == (5,) and "999" in checkpoint.warnings[0]
