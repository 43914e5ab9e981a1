"""A patch that is wrong in one place gives a graph that transformers' answers refute."""

from __future__ import annotations

import pytest

from tests import twins
from tests.mutation import mutated
from xamc.compiler.export import patches
from xamc.compiler.export.exporter import export_model
from xamc.compiler.export.job import twin_program
from xamc.verify.proof import prove

MUTATIONS = [
    ("_attention", "scale=scaling", "scale=scaling * 1.01"),
    ("_window_mask", 'attrs={"window": window}', 'attrs={"window": window + 1}'),
    (
        "_rotary",
        "onnx_ops.rotary_embedding(key, cos, sin, positions)",
        "onnx_ops.rotary_embedding(key, sin, cos, positions)",
    ),
    ("_rms_norm", "self.variance_epsilon", "10 * self.variance_epsilon"),
]


@pytest.mark.parametrize(("function", "old", "new"), MUTATIONS, ids=["scale", "window", "rotary", "epsilon"])
def test_a_wrong_patch_is_refuted(function: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, cases = twins.twin("windowed")
    wrong = mutated(patches, old, new)
    wrong._STATE = patches._STATE  # type: ignore[attr-defined]
    monkeypatch.setattr(patches, function, getattr(wrong, function))
    program = twin_program(export_model(twins.config("windowed")), twins.config("windowed"))
    failed = prove([], program, cases).failed
    assert failed is not None and failed.name == "export"
