"""The layer-by-layer reference against the whole transformers model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from tests.checkpoints import write_tiny
from xamc.compiler.export.worker import eager_model
from xamc.compiler.frontends import open_checkpoint
from xamc.ir.tolerances import tolerance
from xamc.ir.weights.lazy import Array, ArrayTensor, LazyTensor
from xamc.verify.metrics import relative_error
from xamc.verify.oracle import materialize
from xamc.verify.streamed_reference import reference_logits, streamed_logits


@dataclass
class Watched:
    """A tensor that counts the bytes handed out per read."""

    source: LazyTensor
    reads: list[int] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def dtype(self) -> str:
        return self.source.dtype

    def read_rows(self, start: int, stop: int) -> Array:
        self.reads.append(stop - start)
        return self.source.read_rows(start, stop)


@pytest.mark.parametrize("name", ["llama3", "internlm2_bias", "qwen2_window", "qwen3", "mistral"])
def test_equals_the_whole_model(name: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path, name), "huggingface")
    ids = np.random.default_rng(0).integers(0, checkpoint.config.vocab_size, (2, 11))
    model = eager_model(checkpoint.config, materialize(checkpoint.tensors))
    with torch.no_grad():
        expected = model(input_ids=torch.from_numpy(ids)).logits.numpy()
    found = np.stack(streamed_logits(checkpoint.config, checkpoint.tensors, list(ids)))
    assert found.dtype == np.float32 and found.shape == expected.shape
    assert relative_error(found, expected) <= tolerance("export_fp32")
    # the window is shorter than the prompt: without it the logits are others
    if name == "mistral":
        from dataclasses import replace

        unmasked = replace(checkpoint.config, sliding_windows=(None,) * checkpoint.config.num_layers)
        assert relative_error(streamed_logits(unmasked, checkpoint.tensors, ids[:1])[0], expected[0]) > 1e-3


def test_reads_only_what_it_needs_of_the_embedding(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path, "llama"), "huggingface")
    embedding = Watched(checkpoint.tensors["model.embed_tokens.weight"])
    tensors = {**checkpoint.tensors, "model.embed_tokens.weight": embedding}
    streamed_logits(checkpoint.config, tensors, [np.array([5, 7, 5])])
    assert embedding.reads == [1, 1]


def test_sixteen_bit_weights_are_read_as_they_are(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path, "llama"), "huggingface")
    rounded = {
        name: ArrayTensor(array.astype(ml_dtypes.bfloat16)) for name, array in materialize(checkpoint.tensors).items()
    }
    model = eager_model(
        checkpoint.config, {n: t.read_rows(0, t.shape[0]).astype(np.float32) for n, t in rounded.items()}
    )
    ids = np.array([[1, 2, 3, 4]])
    with torch.no_grad():
        expected = model(input_ids=torch.from_numpy(ids)).logits.numpy()
    assert relative_error(streamed_logits(checkpoint.config, rounded, list(ids))[0], expected[0]) <= tolerance(
        "export_fp32"
    )


def test_in_a_child_process_prompts_of_several_lengths(tmp_path: Path) -> None:
    """Each is answered as it is alone, also beside one whose length makes a dynamic RoPE grow its base."""
    checkpoint = open_checkpoint(write_tiny(tmp_path / "model", "internlm2"), "huggingface")
    prompts = [np.array([3, 1, 4, 1, 5]), np.arange(90) + 3, np.arange(70) + 9]
    assert len(prompts[2]) > checkpoint.config.max_position_embeddings
    (tmp_path / "scratch").mkdir()
    found = reference_logits(
        checkpoint.config, checkpoint.tensors, prompts, tmp_path / "scratch", tmp_path / "reproducers"
    )
    for ids, logits in zip(prompts, found, strict=True):
        (alone,) = streamed_logits(checkpoint.config, checkpoint.tensors, [ids])
        np.testing.assert_allclose(logits, alone, atol=1e-5)


def test_every_weight_is_read_once(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path, "llama"), "huggingface")
    watched = {name: Watched(tensor) for name, tensor in checkpoint.tensors.items() if "embed" not in name}
    prompts = [np.array([1, 2]), np.array([3]), np.array([4, 5, 6])]
    streamed_logits(checkpoint.config, {**checkpoint.tensors, **watched}, prompts)
    assert {name: sum(tensor.reads) for name, tensor in watched.items()} == {n: w.shape[0] for n, w in watched.items()}
