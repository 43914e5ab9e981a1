"""The twin keeps what a rewrite may depend on, for the shapes of real models."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xamc.model.config import ModelConfig, RopeConfig
from xamc.model.families.llama import LLAMA
from xamc.passes.graph.shard import ShardPlan
from xamc.verify.scenario import prompts, steps
from xamc.verify.twin import twin_config, twin_weights


def _config(
    hidden: int, inter: int, layers: int, heads: int, kv: int, dim: int, vocab: int, **more: Any
) -> ModelConfig:
    windows = more.pop("windows", (None,) * layers)
    return ModelConfig(
        model_type="llama",
        architecture="LlamaForCausalLM",
        hidden_size=hidden,
        intermediate_size=inter,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv,
        head_dim=dim,
        vocab_size=vocab,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        rope=more.pop("rope", RopeConfig("default", 10000.0)),
        tie_word_embeddings=True,
        qk_norm=False,
        sliding_windows=windows,
        bos_token_id=1,
        eos_token_ids=(2,),
        hf_config={"head_dim": dim, "attention_bias": True, "pad_token_id": 2, **more},
    )


REAL = {
    "smollm2_135m": _config(576, 1536, 30, 9, 3, 64, 49152),
    "internlm3_8b": _config(4096, 10240, 48, 32, 2, 128, 128512),
    "qwen2_0.5b": _config(896, 4864, 24, 14, 2, 64, 151936),
    "qwen3_0.6b": _config(1024, 3072, 28, 16, 8, 128, 151936),
    "mistral_nemo": _config(5120, 14336, 40, 32, 8, 128, 131072),
    "llama2_7b": _config(4096, 11008, 32, 32, 32, 128, 32000),
    "one_kv_head": _config(2048, 5632, 22, 8, 1, 256, 32003),
}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("group", [32, 64, 128])
def test_keeps_ratios_and_residues(name: str, group: int) -> None:
    real = REAL[name]
    twin = twin_config(real, group)
    width, twin_width = real.num_heads * real.head_dim, twin.num_heads * twin.head_dim
    assert twin.num_heads * real.num_kv_heads == real.num_heads * twin.num_kv_heads
    assert twin.num_heads % 2 == real.num_heads % 2 and twin.num_kv_heads % 2 == real.num_kv_heads % 2
    assert (twin.num_kv_heads == 1) == (real.num_kv_heads == 1)
    assert (twin.hidden_size == twin_width) == (real.hidden_size == width)
    assert twin.head_dim % 2 == 0 and twin.head_dim >= 16
    for size, small in (
        (real.hidden_size, twin.hidden_size),
        (real.intermediate_size, twin.intermediate_size),
        (width, twin_width),
    ):
        assert size % group == small % group
    assert twin.vocab_size % 16 == real.vocab_size % 16
    assert twin.num_layers == 2
    assert twin.hidden_size < 1100 and twin.vocab_size < 1200
    assert twin.hf_config["attention_bias"] is True and twin.hf_config["pad_token_id"] is None


@given(
    st.integers(1, 16), st.integers(1, 12), st.integers(4, 128), st.integers(1, 60), st.integers(1, 200),
    st.sampled_from([32, 64, 128]), st.sampled_from([1, 2, 4]),
)  # fmt: skip
def test_what_groups_divide_in_the_model_they_divide_in_the_twin(
    kv: int, ratio: int, half_dim: int, hidden: int, inter: int, group: int, tp: int
) -> None:
    """Else the twin can't be quantized as the model can, and the message speaks of sizes that nobody wrote."""
    heads, dim = kv * ratio, 2 * half_dim
    for size in (group * hidden, math.lcm(group, heads) * hidden, heads * dim):
        real = _config(size, group * inter, 12, heads, kv, dim, 1000)
        twin = twin_config(real, group, tp)
        assert twin.intermediate_size % group == 0
        assert size % group or twin.hidden_size % group == 0
        assert heads * dim % group or twin.num_heads * twin.head_dim % group == 0


@pytest.mark.parametrize(("heads", "kv", "dim", "hidden", "group"), [(5, 1, 128, 1280, 32), (3, 3, 128, 4608, 128)])
def test_an_odd_number_of_heads_costs_no_divisibility(heads: int, kv: int, dim: int, hidden: int, group: int) -> None:
    twin = twin_config(_config(hidden, 128 * 38, 12, heads, kv, dim, 1000), group)
    assert twin.hidden_size % group == 0 and twin.hidden_size % twin.num_heads == 0


@given(
    st.integers(1, 8), st.integers(1, 8), st.integers(8, 128), st.integers(1, 4000), st.integers(50, 200_000),
    st.sampled_from([32, 64, 128]),
)  # fmt: skip
def test_any_shape_has_a_twin(kv: int, ratio: int, half_dim: int, inter: int, vocab: int, group: int) -> None:
    dim, heads = 2 * half_dim, kv * ratio
    for hidden in (heads * dim, heads * dim + 64):
        real = _config(hidden, inter + 64, 12, heads, kv, dim, vocab)
        twin = twin_config(real, group)
        assert twin.num_heads // twin.num_kv_heads == ratio
        assert twin.num_heads * twin.head_dim % group == heads * dim % group
        if hidden == heads * dim or hidden % heads:
            assert twin.hidden_size % group == hidden % group
        else:
            assert twin.hidden_size % twin.num_heads == 0
        assert twin.head_dim % 2 == 0 and twin.head_dim <= 32 + group


@pytest.mark.parametrize("tp", [2, 4, 8, 16])
@pytest.mark.parametrize("name", REAL)
def test_divides_among_ranks_as_the_real_model_does(name: str, tp: int) -> None:
    real, twin = REAL[name], twin_config(REAL[name], 32, tp)
    plans = [ShardPlan.of(config, tp) for config in (real, twin)]
    assert twin.num_heads * real.num_kv_heads == real.num_heads * twin.num_kv_heads
    theirs, ours = plans
    assert ours.group == theirs.group and ours.replicas == theirs.replicas
    assert ours.local("group") == theirs.local("group")
    assert ours.padding("kv_head") == theirs.padding("kv_head") and ours.padding("head") == theirs.padding("head")
    assert (ours.local("kv_head") > 1) == (theirs.local("kv_head") > 1)
    assert ours.padding("intermediate") == theirs.padding("intermediate")
    assert twin.num_kv_heads <= 2 * tp and twin.intermediate_size < 3000


def test_one_rank_changes_nothing() -> None:
    for config in REAL.values():
        assert twin_config(config, 64, 1) == twin_config(config, 64)


def test_layer_patterns() -> None:
    def windows(*real: int | None) -> tuple[int | None, ...]:
        return twin_config(
            _config(64, 128, len(real), 4, 2, 16, 100, windows=real, sliding_window=4096)
        ).sliding_windows

    assert windows(*[None] * 30) == (None, None)
    assert windows(*[4096] * 30) == (3, 3)
    assert windows(*[None, 4096] * 10) == (None, 3)
    assert windows(*[512, 512, None] * 4) == (3, 3, None)
    assert windows(*[None] * 21, *[4096] * 7) == (None, 3)
    assert windows(None) == (None, None)


def test_window_keys_follow_the_pattern() -> None:
    real = _config(64, 128, 28, 4, 2, 16, 100, windows=(None,) * 21 + (4096,) * 7)
    real = replace(
        real,
        hf_config={**real.hf_config, "sliding_window": 4096, "max_window_layers": 21, "layer_types": ["x"] * 28},
    )
    hf = twin_config(real).hf_config
    assert hf["sliding_window"] == 3 and hf["max_window_layers"] == 1
    assert hf["layer_types"] == ["full_attention", "sliding_attention"]


def test_weights_do_not_depend_on_each_other_and_are_not_trivial() -> None:
    shapes = {"model.norm.weight": (64,), "model.layers.0.self_attn.q_proj.weight": (64, 32), "b.bias": (8,)}
    weights = twin_weights(shapes, LLAMA.layer)
    alone = twin_weights({"model.norm.weight": (64,)}, LLAMA.layer)
    np.testing.assert_array_equal(
        alone["model.norm.weight"].read_rows(0, 64), weights["model.norm.weight"].read_rows(0, 64)
    )
    norm = weights["model.norm.weight"].read_rows(0, 64)
    assert norm.std() > 0.1 and np.abs(weights["b.bias"].read_rows(0, 8)).min() > 0
    other = twin_weights(shapes, LLAMA.layer, seed=1)["model.norm.weight"].read_rows(0, 64)
    assert not np.array_equal(norm, other)


def test_attention_is_peaked() -> None:
    """Scores of random unit-variance inputs spread enough that a shifted position or a wrong mask shows."""
    names = ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"]
    weights = twin_weights(dict.fromkeys(names, (64, 64)), LLAMA.layer)
    q, k = (w.read_rows(0, 64).astype(np.float64) for w in weights.values())
    x = np.random.default_rng(0).standard_normal((256, 64))
    scores = (x @ q[:16].T) @ (x @ k[:16].T).T / 4.0
    largest = np.exp(scores - scores.max(axis=1, keepdims=True))
    share = largest.max(axis=1) / largest.sum(axis=1)
    assert np.median(share) > 0.2, "with flat attention this is 1/256"


def test_scenario_is_ragged_and_decodes_three_times() -> None:
    config = twin_config(REAL["smollm2_135m"])
    ids = prompts(config)
    lengths = {run: array.shape for run, array in ids.items()}
    assert lengths["batch"][0] == 2 and len({shape[1] for run, shape in lengths.items() if run != "batch"}) == 3
    for array in ids.values():
        calls = steps(config, array)
        assert [call["input_ids"].shape[1] for call in calls] == [array.shape[1] - 3, 1, 1, 1]
        assert np.concatenate([call["position_ids"][0] for call in calls]).tolist() == list(range(array.shape[1]))
