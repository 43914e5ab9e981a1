"""A tied model whose file holds an output matrix: what counts is what transformers makes of the same folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.checkpoints import CONFIGS, write_tiny
from tests.compiler.frontends.test_families import IDS, distance, mapped_logits
from xamc.compiler.frontends import Checkpoint, open_checkpoint
from xamc.errors import InputError
from xamc.ir.tolerances import tolerance

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def tied(folder: Path, name: str = "llama") -> Path:
    """A checkpoint of two different matrices, whose config.json says that they are one."""
    write_tiny(folder, name)
    config = folder / "config.json"
    config.write_text(json.dumps(CONFIGS[name] | {"tie_word_embeddings": True}))
    return folder


def edit(folder: Path, **tensors: torch.Tensor | None) -> None:
    held = load_file(folder / "model.safetensors") | {key.replace("__", "."): value for key, value in tensors.items()}
    save_file({name: t for name, t in held.items() if t is not None}, folder / "model.safetensors", {"format": "pt"})


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(folder, "huggingface")


def check_against_transformers(folder: Path) -> Checkpoint:
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = reference(IDS).logits
    checkpoint = opened(folder)
    assert distance(mapped_logits(checkpoint, IDS), expected) < tolerance("family_mapping")
    return checkpoint


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral"])
def test_two_that_differ_are_both_kept(name: str, tmp_path: Path) -> None:
    checkpoint = check_against_transformers(tied(tmp_path, name))
    config = checkpoint.config
    assert not config.tie_word_embeddings and config.hf_config["tie_word_embeddings"] is False
    assert HEAD in checkpoint.tensors and not checkpoint.unused_tensors
    assert any("tie_word_embeddings" in warning and "differs" in warning for warning in checkpoint.warnings)


def test_a_difference_in_the_last_row_alone_counts(tmp_path: Path) -> None:
    folder = tied(tmp_path)
    copy = load_file(folder / "model.safetensors")[EMBEDDING].clone()
    copy[-1, -1] += 1
    edit(folder, lm_head__weight=copy)
    assert not check_against_transformers(folder).config.tie_word_embeddings


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_that_are_equal_are_one(dtype: torch.dtype, tmp_path: Path) -> None:
    """Equal as numbers: a head stored in fewer bits is the same one if it rounds nothing."""
    folder = tied(tmp_path)
    embedding = load_file(folder / "model.safetensors")[EMBEDDING].to(torch.bfloat16)
    edit(folder, model__embed_tokens__weight=embedding.float(), lm_head__weight=embedding.to(dtype))
    checkpoint = check_against_transformers(folder)
    assert checkpoint.config.tie_word_embeddings and HEAD not in checkpoint.tensors
    assert checkpoint.unused_tensors == (HEAD,) and not checkpoint.warnings


def test_a_head_alone_is_the_embedding_too(tmp_path: Path) -> None:
    folder = tied(tmp_path)
    head = load_file(folder / "model.safetensors")[HEAD]
    edit(folder, model__embed_tokens__weight=None)
    checkpoint = check_against_transformers(folder)
    assert checkpoint.config.tie_word_embeddings and HEAD not in checkpoint.tensors
    assert np.array_equal(checkpoint.tensors[EMBEDDING].read_rows(0, len(head)), head.numpy())


def test_internlm2s_names(tmp_path: Path) -> None:
    checkpoint = opened(tied(tmp_path, "internlm2"))
    assert not checkpoint.config.tie_word_embeddings and HEAD in checkpoint.tensors


def test_wrong_shapes_and_missing_matrices_are_named(tmp_path: Path) -> None:
    folder = tied(tmp_path)
    edit(folder, lm_head__weight=torch.zeros(9, 48))
    with pytest.raises(InputError, match=r"E1122 .*lm_head.weight"):
        opened(folder)
    edit(folder, model__embed_tokens__weight=None, lm_head__weight=None)
    with pytest.raises(InputError, match=r"E1120 .*embed_tokens"):
        opened(folder)
