"""Seeded inputs: masks by default, or integers on both sides of 0, indices within their table."""

from __future__ import annotations

import numpy as np

from xamc.artifact.onnx_manifest import GraphTensor
from xamc.runtime.seeded_feeds import seeded_feeds

INPUTS = (
    GraphTensor("x", "float32", (2, 8)),
    GraphTensor("ids", "int64", (2, 64), limit=5),
    GraphTensor("mask", "int64", (2, 8)),
    GraphTensor("bytes", "uint8", (64,)),
    GraphTensor("flags", "bool", (64,)),
)


def test_masks() -> None:
    feeds = seeded_feeds(INPUTS)
    assert feeds["mask"].tolist() == [[1] * 6 + [0] * 2] * 2
    assert feeds["ids"].min() == 0 and feeds["ids"].max() == 4


def test_integers_of_all_kinds() -> None:
    signed, positive = (seeded_feeds(INPUTS, integers=kind) for kind in ("signed", "positive"))
    for feeds in (signed, positive):
        assert 0 not in feeds["mask"] and len(np.unique(feeds["mask"])) > 2
        assert set(np.unique(feeds["flags"])) == {False, True} and feeds["bytes"].min() > 0
        assert {name: array.dtype.name for name, array in feeds.items()} == {t.name: t.dtype for t in INPUTS}
    assert signed["mask"].min() < 0 < signed["mask"].max() and positive["mask"].min() > 0
    assert signed["ids"].min() == -5 and signed["ids"].max() == 4 and positive["ids"].min() == 0
