"""A context beyond what the model was trained for is said, on every kind of target, by plan and compile alike."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests import twins
from xamc.compiler.spec import load_spec
from xamc.compiler.stages.context import context_lengths, length_warnings
from xamc.model.bucket import Bucket
from xamc.model.config import ModelConfig, RopeConfig, RopeKind
from xamc.targets.request import TargetRequest

PLAIN = TargetRequest("float16", None, "float16")


def trained_for_64(kind: RopeKind, factor: float = 2.0) -> ModelConfig:
    config = twins.config("tied")
    return replace(config, max_position_embeddings=64, rope=RopeConfig(kind, 10000.0, factor=factor))


@pytest.mark.parametrize(
    ("kind", "length", "words"),
    [("default", 64, None), ("default", 80, "its training"), ("dynamic", 80, "RoPE base of its own length")],
)
def test_static_graphs(kind: RopeKind, length: int, words: str | None) -> None:
    request = replace(PLAIN, buckets=(Bucket("prefill", 16), Bucket("decode", length)))
    spec = load_spec({"frontend": {"checkpoint": "m"}}).spec
    found = length_warnings(spec, trained_for_64(kind), request)
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
    for request in (PLAIN, None):
        found = length_warnings(spec, trained_for_64(kind), request)
        assert [f"{length} tokens" in text and "64" in text for text in found] == [True] * said
    assert context_lengths(spec, trained_for_64(kind)) == (length, 16)
