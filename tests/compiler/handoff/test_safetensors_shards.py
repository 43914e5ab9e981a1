"""Shards as transformers reads them, and the memory that writing them takes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from xamc.compiler.handoff.safetensors_shards import INDEX, plan_shards, write_shards
from xamc.ir.weights.lazy import ArrayTensor, LazyTensor
from xamc.ir.weights.transforms import Zeros


def test_round_trip_with_an_index(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    arrays = {f"t{i}": random.standard_normal((5 + i, 7)).astype(("f2", "f4")[i % 2]) for i in range(6)}
    counted: list[int] = []
    files = write_shards(tmp_path, {n: ArrayTensor(a) for n, a in arrays.items()}, 400, counted.append)
    index = json.loads((tmp_path / INDEX).read_text())
    assert len(files) > 3 and set(files) == {*index["weight_map"].values(), INDEX}
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in arrays.values())
    assert sum(counted) == sum(a.size for a in arrays.values())
    for name, array in arrays.items():
        found = load_file(tmp_path / index["weight_map"][name])[name]
        assert found.dtype == array.dtype and np.array_equal(found, array)
    with safe_open(tmp_path / files[0], "np") as file:
        assert file.metadata() == {"format": "pt"}


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 300))
def test_every_tensor_is_in_one_shard(rows: list[int], limit: int) -> None:
    tensors: dict[str, LazyTensor] = {f"t{i}": Zeros((n, 3), "float16") for i, n in enumerate(rows)}
    shards = plan_shards(tensors, limit)
    assert [name for names in shards.values() for name in names] == list(tensors)
    assert all(len(names) == 1 or sum(rows[int(n[1:])] * 6 for n in names) <= limit for names in shards.values())
    assert list(shards) == sorted(shards) and (len(shards) > 1) == ("model.safetensors" not in shards)


_STREAM = """
import resource, sys
from pathlib import Path
from xamc.compiler.handoff.safetensors_shards import write_shards
from xamc.ir.weights.transforms import Cast, Zeros
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_shards(Path(sys.argv[1]), {f"t{i}": Cast(Zeros((100_000, 1024), "float32"), "float16", "t") for i in range(2)})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_is_bounded_by_a_block(tmp_path: Path) -> None:
    """Two matrices of 205 MB each are written with a few blocks of 64 MiB."""
    assert resource.getpagesize() <= 65536
    result = subprocess.run(
        [sys.executable, "-c", _STREAM, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    assert (tmp_path / "model.safetensors").stat().st_size > 409_600_000
    assert int(result.stdout) < 330, f"{result.stdout} MiB"
