"""The rotary embedding of GGUF files: what llama.cpp computes for the same keys, by transformers' frequencies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checkpoints import write_tiny
from tests.compiler.frontends.gguf_files import write_gguf
from xamc.compiler.frontends import open_checkpoint
from xamc.compiler.frontends.gguf.rope import llama3_divisors
from xamc.errors import InputError, UnsupportedError, XamcError
from xamc.model.config import ModelConfig
from xamc.model.rope import inverse_frequencies

THETA = 500000.0
Opener = Callable[..., ModelConfig]


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    """Opens a tiny llama with heads of 32 whose keys ``llama.rope.*`` and rope_freqs.weight are given."""
    sizes = {"hidden_size": 96, "intermediate_size": 128, "head_dim": 32}
    folder = write_tiny(tmp_path / "hf", "llama", **sizes, num_hidden_layers=1, rope_theta=THETA)

    def open_it(divisors: np.ndarray | None = None, **keys: Any) -> ModelConfig:
        def adjust(tensors: dict[str, np.ndarray]) -> None:
            if divisors is not None:
                tensors["rope_freqs.weight"] = divisors.astype(np.float32)

        metadata = {f"llama.rope.{key.replace('__', '.')}": value for key, value in keys.items()}
        write_gguf(tmp_path / "m.gguf", folder, metadata=metadata, adjust=adjust)
        return open_checkpoint(tmp_path / "m.gguf", "gguf").config

    return open_it


def frequencies(config: ModelConfig) -> np.ndarray:
    return inverse_frequencies(config.rope, 32, config.max_position_embeddings)


@pytest.mark.parametrize(
    ("keys", "factor"),
    [
        ({}, 1.0),
        ({"scaling__factor": 4.0}, 4.0),  # a factor without a type is linear
        ({"scaling__factor": 0.5}, 0.5),
        ({"scaling__factor": 0.0}, 1.0),
        ({"scaling__type": "linear", "scaling__factor": 4.0}, 4.0),
        ({"scaling__type": "linear"}, 1.0),
        ({"scaling__type": "none", "scaling__factor": 4.0}, 1.0),
        ({"scale_linear": 2.0}, 2.0),
        ({"scale_linear": 2.0, "scaling__factor": 3.0}, 3.0),
        ({"scaling__original_context_length": 64, "scaling__finetuned": True}, 1.0),
        ({"scaling__attn_factor": 1.0}, 1.0),
    ],
)
def test_all_frequencies_are_divided_by_the_factor(keys: dict[str, Any], factor: float, opened: Opener) -> None:
    plain = (1 / THETA ** (np.arange(0, 32, 2, dtype=np.float32) / 32)).astype(np.float32)
    config = opened(**keys)
    assert np.allclose(frequencies(config), plain / factor, rtol=1e-6, atol=0)
    assert config.hf_config["rope_parameters"].get("factor", 1.0) == factor


def test_divisors_and_a_factor_are_one_division(opened: Opener) -> None:
    assert opened(np.ones(16)).rope.kind == "default"
    assert opened(np.full(16, 2.0), scaling__factor=3.0).rope.factor == 6.0
    assert opened(np.full(16, 2.0), scaling__factor=3.0, scaling__type="none").rope.factor == 2.0


@pytest.mark.parametrize(("factor", "original"), [(8.0, 8192), (32.0, 8192), (16.0, 8192), (4.0, 4096)])
def test_llama3_divisors_are_recognized(factor: float, original: int, opened: Opener) -> None:
    scaled = reference_frequencies(factor, original)
    plain = THETA ** (-np.arange(0, 32, 2) / 32)
    divisors = (plain / scaled).astype(np.float32)
    assert np.allclose(divisors, llama3_divisors(THETA, 32, factor, 1.0, 4.0, original), rtol=1e-5)
    config = opened(divisors)
    assert (config.rope.kind, config.rope.original_max_position_embeddings) == ("llama3", original)
    assert config.rope.factor == pytest.approx(factor, rel=1e-6)
    assert config.hf_config["rope_parameters"]["low_freq_factor"] == 1.0
    assert np.allclose(frequencies(config), scaled, rtol=2e-5, atol=0)


def reference_frequencies(factor: float, original: int) -> np.ndarray:
    """transformers' own Llama 3 frequencies."""
    import torch
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {"rope_type": "llama3", "rope_theta": THETA, "factor": factor, "low_freq_factor": 1.0}
    config = LlamaConfig(
        hidden_size=32, num_attention_heads=1, head_dim=32, max_position_embeddings=131072,
        rope_parameters={**scaling, "high_freq_factor": 4.0, "original_max_position_embeddings": original},
    )  # fmt: skip
    found: np.ndarray = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0].numpy()
    return found


@pytest.mark.parametrize(
    ("divisors", "keys", "error", "words"),
    [
        (None, {"scaling__type": "yarn", "scaling__factor": 4.0}, InputError, "llama.rope.scaling.type 'yarn'"),
        (None, {"scaling__type": "longrope"}, InputError, "llama.rope.scaling.type 'longrope'"),
        (None, {"scaling__factor": -1.0}, InputError, "llama.rope.scaling.factor is -1.0"),
        (None, {"scaling__attn_factor": 2.0}, UnsupportedError, "llama.rope.scaling.attn_factor 2.0"),
        (None, {"scaling__alpha": 1000.0}, UnsupportedError, "llama.rope.scaling.alpha 1000.0"),
        (llama3_divisors(THETA, 32, 8.0, 1, 4, 8192), {"scaling__factor": 3.0}, InputError, "scaling factor of 3"),
        (np.linspace(1, 7, 16), {}, InputError, "rope_freqs.weight belongs to no Llama 3 scaling"),
        (np.full(16, np.nan), {}, InputError, "rope_freqs.weight belongs to no Llama 3 scaling"),
        (np.ones(4), {}, InputError, "rope_freqs.weight in"),
    ],
)
def test_other_scalings_are_refused_by_name(
    divisors: np.ndarray | None, keys: dict[str, Any], error: type[XamcError], words: str, opened: Opener
) -> None:
    with pytest.raises(error) as caught:
        opened(divisors, **keys)
    assert words in caught.value.message and "config.json" not in caught.value.message


def test_only_llama_has_divisors(tmp_path: Path) -> None:
    """llama.cpp refuses the tensor in any other of the architectures."""
    sizes = {"hidden_size": 96, "intermediate_size": 128, "head_dim": 16}

    def adjust(tensors: dict[str, np.ndarray]) -> None:
        tensors["rope_freqs.weight"] = np.full(8, 2.0, np.float32)

    write_gguf(tmp_path / "m.gguf", write_tiny(tmp_path / "hf", "qwen2", **sizes), adjust=adjust)
    with pytest.raises(InputError, match=r"E1121.*rope_freqs\.weight"):
        open_checkpoint(tmp_path / "m.gguf", "gguf")
