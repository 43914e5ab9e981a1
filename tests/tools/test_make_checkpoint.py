"""The synthetic checkpoints: the same model however it is cut into files, sane values, a tokenizer that works."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.checkpoints import write_tiny
from tools import make_checkpoint
from xamc.compiler.frontends import open_checkpoint


def values(folder: Path) -> dict[str, np.ndarray]:
    tensors = open_checkpoint(folder, "huggingface").tensors
    return {name: t.read_rows(0, t.shape[0]).astype(np.float32) for name, t in tensors.items()}


def test_shards_and_dtypes_hold_the_same_model(tmp_path: Path) -> None:
    whole = values(write_tiny(tmp_path / "a", "qwen3"))
    parts = values(write_tiny(tmp_path / "b", "qwen3", shards=True))
    half = values(write_tiny(tmp_path / "c", "qwen3", dtype="float16"))
    other = values(write_tiny(tmp_path / "d", "qwen3", seed=1))
    for name, array in whole.items():
        assert np.array_equal(array, parts[name])
        assert np.array_equal(array.astype(np.float16).astype(np.float32), half[name])
        assert not np.array_equal(array, other[name])


def test_large_tensors_come_from_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_checkpoint, "BLOCK_ITEMS", 4096)
    make_checkpoint.pool.cache_clear()
    state = values(write_tiny(tmp_path, "llama"))
    make_checkpoint.pool.cache_clear()
    embedding, up = state["model.embed_tokens.weight"], state["model.layers.0.mlp.up_proj.weight"]
    assert abs(float(embedding.std()) - 1) < 0.05 and abs(float(up.std()) * 48**0.5 - 1) < 0.05
    assert not np.array_equal(up, state["model.layers.1.mlp.up_proj.weight"])
    assert abs(float(state["model.norm.weight"].mean()) - 1) < 0.1


def test_the_command_line_writes_a_usable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = dict(make_checkpoint.SHAPES["internlm3-8b"])
    small |= {"hidden_size": 64, "intermediate_size": 64, "vocab_size": 300, "num_attention_heads": 4, "head_dim": 16}
    monkeypatch.setattr(make_checkpoint, "SHAPES", {"small": small})
    command = [
        "make_checkpoint",
        "--shape",
        "small",
        "--layers",
        "3",
        "--shard-gb",
        "0.0001",
        "--out",
        str(tmp_path / "x"),
    ]
    monkeypatch.setattr(sys, "argv", command)
    make_checkpoint.main()
    checkpoint = open_checkpoint(tmp_path / "x", "huggingface")
    assert checkpoint.config.num_layers == 3 and checkpoint.tensors["lm_head.weight"].dtype == "float16"
    index = json.loads((tmp_path / "x" / "model.safetensors.index.json").read_text())
    stored = sum(p.stat().st_size for p in (tmp_path / "x").glob("*.safetensors"))
    assert 0 < stored - index["metadata"]["total_size"] < 20_000
    tokenizer = Tokenizer.from_file(str(tmp_path / "x" / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode("any text, 任何文字").ids) == "any text, 任何文字"
