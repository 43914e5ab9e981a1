"""Which graphs of a rank share a parameter file."""

from __future__ import annotations

import io

import numpy as np
from rich.console import Console

from xamc.ir.weights.fingerprint import fingerprint
from xamc.ir.weights.lazy import ArrayTensor, LazyTensor
from xamc.jobs.progress import Progress
from xamc.model.bucket import Bucket
from xamc.targets.vacc.build import _merge

PREFILL, LONGER, DECODE = Bucket("prefill", 16), Bucket("prefill", 32), Bucket("decode", 64)


def _merged(tables: dict[Bucket, float], ranks: int = 2) -> tuple[dict[tuple[Bucket, int], list[str]], list[str]]:
    """What becomes of graphs with tables of these values: (place -> what its file holds, warnings)."""
    wanted: dict[tuple[Bucket, int], dict[str, LazyTensor]] = {}
    for bucket, value in tables.items():
        for rank in range(ranks):
            wanted[bucket, rank] = {
                "weight": ArrayTensor(np.full(2, rank, np.float32)),
                "rope_cos": ArrayTensor(np.full(3, value, np.float32)),
            }
            if bucket.kind == "decode":
                wanted[bucket, rank]["past_scales"] = ArrayTensor(np.ones(1, np.float32))
    prints = {place: {name: fingerprint(t) for name, t in tensors.items()} for place, tensors in wanted.items()}
    progress = Progress(Console(file=io.StringIO()))
    _merge(wanted, prints, progress)
    for place, tensors in wanted.items():
        assert prints[place] == {name: fingerprint(tensor) for name, tensor in tensors.items()}
        assert tensors["weight"].read_rows(0, 1)[0] == place[1]
        assert tensors["rope_cos"].read_rows(0, 1)[0] == tables[place[0]], "a graph got another one's table"
    return {place: sorted(tensors) for place, tensors in wanted.items()}, progress.warnings


def test_graphs_that_agree_have_all_tensors_of_all() -> None:
    files, warnings = _merged({PREFILL: 1, LONGER: 1, DECODE: 1})
    assert set(map(tuple, files.values())) == {("past_scales", "rope_cos", "weight")} and not warnings


def test_a_graph_with_another_table_keeps_its_own() -> None:
    """And the others still share theirs, whichever comes first."""
    files, warnings = _merged({PREFILL: 1, DECODE: 2, LONGER: 1})
    for rank in range(2):
        assert files[PREFILL, rank] == files[LONGER, rank] == ["rope_cos", "weight"]
        assert files[DECODE, rank] == ["past_scales", "rope_cos", "weight"]
    (warning,) = warnings
    assert "different rope_cos" in warning and "2 files per rank: prefill_16 and prefill_32; decode_64" in warning
