"""A context beyond what the model was trained for is said, on every kind of target, by plan and compile alike."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests import twins
from xamc.compiler.spec import load_spec
from xamc.compiler.stages.context import context_lengths, length_warnings
from xamc.model.config import ModelConfig, RopeConfig, RopeKind


def trained_for_64(kind: RopeKind, factor: float = 2.0) -> ModelConfig:
    config = twins.config("tied")
    return replace(config, max_position_embeddings=64, rope=RopeConfig(kind, 10000.0, factor=factor))


@pytest.mark.parametrize(
    ("kind", "length", "words"),
    [("default", 64, None), ("default", 80, "its training"), ("dynamic", 80, "RoPE base of its own length")],
)
def test_static_graphs(kind: RopeKind, length: int, words: str | None) -> None:
    spec = load_spec({"frontend": {"checkpoint": "m", "shape": {"input_ids": [[16], [length]]}}}).spec
    found = length_warnings(spec, trained_for_64(kind))
    assert [words in text and "64" in text for text in found if words] == ([True] if words else [])


@pytest.mark.parametrize(
    ("kind", "length", "said"),
    [
        ("default", 64, False),
        ("default", 65, True),
        ("linear", 65, True),
        ("dynamic", 128, False),
        ("dynamic", 129, True),
    ],
)
def test_dynamic_shapes(kind: RopeKind, length: int, said: bool) -> None:
    """Dynamic NTK is made for `factor` times the length, and linear scaling's length counts the factor in already."""
    shape = {"input_ids": [[16], [length]]}
    spec = load_spec({"frontend": {"checkpoint": "m", "shape": shape}, "backend": {"type": "tvm_cpu"}}).spec
    found = length_warnings(spec, trained_for_64(kind))
    assert [f"{length} tokens" in text and "64" in text for text in found] == [True] * said
    assert context_lengths(spec, trained_for_64(kind)) == (length, 16)
