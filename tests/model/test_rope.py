"""RoPE tables against transformers' own code, kind by kind and across max_position_embeddings."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from xamc.errors import UnsupportedError
from xamc.ir.tolerances import tolerance
from xamc.model.config import ModelConfig, RopeConfig
from xamc.model.rope import LengthReached, inverse_frequencies, rope_table
from xamc.runtime.rope_table import RopeTable

MAX_POSITIONS = 64


def model_config(rope: RopeConfig, head_dim: int = 16, max_positions: int = MAX_POSITIONS) -> ModelConfig:
    return ModelConfig(
        model_type="llama",
        architecture="LlamaForCausalLM",
        hidden_size=4 * head_dim,
        intermediate_size=64,
        num_layers=1,
        num_heads=4,
        num_kv_heads=2,
        head_dim=head_dim,
        vocab_size=32,
        max_position_embeddings=max_positions,
        rms_norm_eps=1e-5,
        rope=rope,
        tie_word_embeddings=False,
        qk_norm=False,
        sliding_windows=(None,),
        bos_token_id=1,
        eos_token_ids=(2,),
        hf_config={},
    )


def hf_config(rope: RopeConfig, head_dim: int, max_positions: int) -> LlamaConfig:
    parameters: dict[str, Any] = {"rope_type": rope.kind, "rope_theta": rope.theta}
    if rope.kind != "default":
        parameters["factor"] = rope.factor
    if rope.kind == "llama3":
        parameters["low_freq_factor"] = rope.low_freq_factor
        parameters["high_freq_factor"] = rope.high_freq_factor
        parameters["original_max_position_embeddings"] = rope.original_max_position_embeddings
    return LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=max_positions,
        rope_parameters=parameters,
    )


def hf_frequencies(rope: RopeConfig, head_dim: int, max_positions: int, length: int | None) -> np.ndarray:
    config = hf_config(rope, head_dim, max_positions)
    if rope.kind == "default":
        return LlamaRotaryEmbedding.compute_default_rope_parameters(config)[0].numpy()
    seq_len = None if length is None else torch.tensor(length)
    frequencies, scaling = ROPE_INIT_FUNCTIONS[rope.kind](config, torch.device("cpu"), seq_len=seq_len)
    assert scaling == 1.0
    return frequencies.numpy()


KINDS = [
    RopeConfig("default", 10000.0),
    RopeConfig("default", 50_000_000.0),
    RopeConfig("linear", 10000.0, factor=2.5),
    RopeConfig("dynamic", 10000.0, factor=2.0),
    RopeConfig("dynamic", 1_000_000.0, factor=1.1),
    RopeConfig("llama3", 500_000.0, 8.0, 1.0, 4.0, 8192),
]


def ulp_distance(a: np.ndarray, b: np.ndarray) -> int:
    """Largest distance in units in the last place of two positive float32 arrays."""
    return int(np.abs(a.view(np.int32).astype(np.int64) - b.view(np.int32)).max())


@pytest.mark.parametrize("rope", KINDS, ids=lambda rope: f"{rope.kind}-{rope.theta:g}")
@pytest.mark.parametrize("head_dim", [16, 64, 96, 128])
def test_frequencies_are_those_of_transformers(rope: RopeConfig, head_dim: int) -> None:
    for length in (None, 1, 63, 64, 65, 100, 129, 1000, 31_337):
        want = hf_frequencies(rope, head_dim, MAX_POSITIONS, length)
        got = inverse_frequencies(rope, head_dim, MAX_POSITIONS, length)
        assert got.dtype == np.float32
        assert ulp_distance(got, want) <= tolerance("rope_frequency_ulps"), (rope.kind, length)


@pytest.mark.parametrize("rope", KINDS, ids=lambda rope: f"{rope.kind}-{rope.theta:g}")
def test_table_is_that_of_transformers_at_many_positions(rope: RopeConfig) -> None:
    head_dim, max_positions, rows = 64, 32_768, 40_000
    embedding = LlamaRotaryEmbedding(hf_config(rope, head_dim, max_positions))
    cos, sin = embedding(torch.zeros(1), torch.arange(rows)[None])
    length = rows if rope.kind == "dynamic" else None
    got_cos, got_sin = rope_table(model_config(rope, head_dim, max_positions), rows, length)
    assert got_cos.shape == got_sin.shape == (rows, head_dim // 2)
    # An angle may differ by the frequency's last units: the bound grows with the angle, cos and sin are 1-Lipschitz.
    frequencies = inverse_frequencies(rope, head_dim, max_positions, length)
    units = tolerance("rope_frequency_ulps") * 2.0**-23
    bound = tolerance("rope_cos_sin") + np.arange(rows)[:, None] * frequencies * units
    assert (np.abs(got_cos - cos[0, :, : head_dim // 2].numpy()) <= bound).all()
    assert (np.abs(got_sin - sin[0, :, : head_dim // 2].numpy()) <= bound).all()


def test_smollm2_table_is_equal_to_the_last_digit_but_one() -> None:
    rope = RopeConfig("default", 100_000.0)
    embedding = LlamaRotaryEmbedding(hf_config(rope, 64, 8192))
    cos, sin = embedding(torch.zeros(1), torch.arange(8192)[None])
    got_cos, got_sin = rope_table(model_config(rope, 64, 8192), 8192)
    np.testing.assert_allclose(got_cos, cos[0, :, :32].numpy(), rtol=0, atol=tolerance("rope_cos_sin"))
    np.testing.assert_allclose(got_sin, sin[0, :, :32].numpy(), rtol=0, atol=tolerance("rope_cos_sin"))


@pytest.mark.parametrize(
    "steps",
    [
        [(0, 60), *((p, p + 1) for p in range(60, 80))],  # decoding crosses the limit
        [(0, 100), (0, 80), (0, 64), (0, 63), (0, 65)],  # kept, kept at the limit, reset, grown again
        [(0, 64), (64, 65), (0, 10), (10, 11)],
    ],
)
def test_dynamic_follows_dynamic_rope_update(steps: list[tuple[int, int]]) -> None:
    rope = RopeConfig("dynamic", 10000.0, factor=2.0)
    embedding = LlamaRotaryEmbedding(hf_config(rope, 16, MAX_POSITIONS))
    config, reached = model_config(rope), LengthReached(MAX_POSITIONS)
    table = RopeTable(config, 128)
    for start, stop in steps:
        cos, sin = embedding(torch.zeros(1), torch.arange(start, stop)[None])
        table.prepare(start, stop, reached.advance(stop))
        bound = tolerance("rope_cos_sin") + stop * tolerance("rope_frequency_ulps") * 2.0**-23
        np.testing.assert_allclose(table.cos[start:stop], cos[0, :, :8].numpy(), rtol=0, atol=bound)
        np.testing.assert_allclose(table.sin[start:stop], sin[0, :, :8].numpy(), rtol=0, atol=bound)
    # The comparison has teeth: the unscaled table is far away.
    assert np.abs(rope_table(config, 128)[0] - rope_table(config, 128, 80)[0]).max() > 0.5


@pytest.mark.parametrize("kind", ["default", "dynamic"])
def test_lazily_filled_table_equals_the_whole_one(kind: Any) -> None:
    config = model_config(RopeConfig(kind, 10000.0, factor=2.0), max_positions=5000)
    whole_cos, whole_sin = rope_table(config, 3000)
    table = RopeTable(config, 3000)
    for start, stop in [(0, 7), (7, 8), (500, 520), (2000, 2010), (2010, 2999), (0, 30), (2999, 3000)]:
        table.prepare(start, stop, stop)
        np.testing.assert_array_equal(table.cos[start:stop], whole_cos[start:stop])
        np.testing.assert_array_equal(table.sin[start:stop], whole_sin[start:stop])


def test_unknown_kind_is_refused() -> None:
    rope = dataclasses.replace(RopeConfig("default", 10000.0), kind="yarn")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match=r"E1601.*yarn"):
        inverse_frequencies(rope, 16, 64)
